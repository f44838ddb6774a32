package main

import "strconv"

// quote returns a name as it is safe to show: itself if it is plain printable
// text, else in double quotes with Go's escapes (\n, \x1b, \xff). So no name
// can move a terminal's cursor, break a line in two, or pass for another name.
// strconv.Unquote gives the bytes back.
func quote(name string) string {
	q := strconv.Quote(name)
	if len(q) == len(name)+2 && name != "" {
		return name
	}
	return q
}
