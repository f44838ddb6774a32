package flist

import "sort"

// DataBytes returns how many bytes of a file are not in holes.
func (im *Image) DataBytes(ino Inode) uint64 {
	if im.Mode(ino)&ModeType != ModeRegular {
		return 0
	}
	var data, begin uint64
	s := im.span.at(int(ino))
	for i := int(s.first); i < int(s.first+s.n); i++ {
		end := im.extentEnd.at(i)
		if im.extentStart.at(i) != holeStart {
			data += end - begin
		}
		begin = end
	}
	return data
}

// Run returns the end (exclusive) of the longest run of a file's bytes that
// begins at off and is all data or all hole; false at or after the end of the
// file.
func (im *Image) Run(ino Inode, off uint64) (end uint64, hole, ok bool) {
	if im.Mode(ino)&ModeType != ModeRegular {
		return 0, false, false
	}
	s := im.span.at(int(ino))
	i := int(s.first) + sort.Search(int(s.n), func(i int) bool { return im.extentEnd.at(int(s.first)+i) > off })
	for last := int(s.first + s.n); i < last; i++ {
		h := im.extentStart.at(i) == holeStart
		if ok && h != hole {
			break
		}
		end, hole, ok = im.extentEnd.at(i), h, true
	}
	return end, hole, ok
}
