package unpack

// progress is how far the run is by now.
func (r *run) progress() Progress {
	root := r.im.Root()
	return Progress{
		Entries: r.entries.Load(), TotalEntries: int64(root.Counts.Entries) + 1,
		Bytes: r.bytes.Load() + r.holes.Load(), TotalBytes: int64(root.Bytes),
	}
}
