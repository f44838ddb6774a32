package flist

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
)

// ErrTablePage says that the disk does not give back a page of the mapped file
// an image's tables are in.
var ErrTablePage = errors.New("tables of an flist could not be read back from the disk")

// Guard calls do, which looks into mapped images in the goroutine of the caller,
// and returns its error. A page that the disk does not give back, which would
// end the process, is ErrTablePage. It comes as a panic out of a look-up, so do
// must hold no lock but by defer.
func Guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !ok {
			panic(r)
		}
		err = fmt.Errorf("%w (a fault at address %#x)", ErrTablePage, fault.Addr())
	}()
	return do()
}
