package flist

// Walk calls fn for every name of the image, the root ("/") first, depth
// first, names sorted bytewise in each directory; an inode with several names
// is met under each. The path is valid during the call only. Walk stops at
// the first error and returns it. Its memory grows with the depth alone.
func (im *Image) Walk(fn func(path []byte, ino Inode) error) error {
	return im.WalkFrom(RootInode, fn)
}

// WalkFrom is Walk below and with dir; paths are those in the image.
func (im *Image) WalkFrom(dir Inode, fn func(path []byte, ino Inode) error) error {
	path := im.Path(dir)
	if err := fn(path, dir); err != nil {
		return err
	}
	if len(path) == 1 {
		path = path[:0] // below the root, paths begin with the first name's slash
	}
	type level struct{ entry, end, path int }
	first, end := im.Entries(dir)
	stack := []level{{first, end, len(path)}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.entry == top.end {
			stack = stack[:len(stack)-1]
			continue
		}
		name, ino := im.Entry(top.entry)
		top.entry++
		path = append(append(path[:top.path], '/'), name...)
		if err := fn(path, ino); err != nil {
			return err
		}
		if first, end := im.Entries(ino); first < end {
			stack = append(stack, level{first, end, len(path)})
		}
	}
	return nil
}
