package mount

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// The requests of vhost-user that the relay knows, by their number in
// https://qemu-project.gitlab.io/qemu/interop/vhost-user.html; each header is
// request, flags and size of the payload, 32 bits each.
const (
	vhostGetFeatures         = 1
	vhostSetVringNum         = 8 // the first about one ring
	vhostGetVringBase        = 11
	vhostSetVringKick        = 12
	vhostSetVringErr         = 14 // the last of them
	vhostGetProtocolFeatures = 15
	vhostGetQueueNum         = 17
	vhostSetVringEnable      = 18
	vhostGetMaxMemSlots      = 36
	vhostAddMemReg           = 37
	vhostRemMemReg           = 38

	vhostHeader    = 12
	vhostPayload   = 4096 - vhostHeader // most go-fuse takes
	vhostVersion   = 1
	vhostReply     = 1 << 2
	vhostNeedReply = 1 << 3
	vhostRegion    = 32 // bytes of a region's description, behind 8 of padding
	vhostMaxRings  = 8
	vhostMaxMem    = 509
)

// vhostMessage is a header with its payload, and descriptors.
type vhostMessage struct {
	buf []byte
	fds []int
}

func (m vhostMessage) request() uint32 { return binary.NativeEndian.Uint32(m.buf) }
func (m vhostMessage) flags() uint32   { return binary.NativeEndian.Uint32(m.buf[4:]) }

// word returns a 32-bit word of the payload, 0 behind its end.
func (m vhostMessage) word(i int) uint32 {
	at := vhostHeader + 4*i
	if at+4 > len(m.buf) {
		return 0
	}
	return binary.NativeEndian.Uint32(m.buf[at:])
}

// answered reports whether go-fuse answers.
func (m vhostMessage) answered() bool {
	switch m.request() {
	case vhostGetFeatures, vhostGetProtocolFeatures, vhostGetQueueNum, vhostGetMaxMemSlots:
		return true
	}
	return m.flags()&vhostNeedReply != 0
}

func (m vhostMessage) close() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
}

// region is what names a memory region.
func (m vhostMessage) region() string {
	if len(m.buf) < vhostHeader+8+vhostRegion {
		return ""
	}
	return string(m.buf[vhostHeader+8:][:vhostRegion-8]) // without the offset in its file
}

func vhostHead(words ...uint32) (b []byte) {
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

// readVhost reads one message. What it returns must be closed.
func readVhost(conn *net.UnixConn) (m vhostMessage, err error) {
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	m.buf = make([]byte, vhostHeader)
	oob := make([]byte, unix.CmsgSpace(4*16))
	n, oobn, _, _, err := conn.ReadMsgUnix(m.buf, oob)
	if err != nil {
		return m, err
	}
	if m.fds, err = descriptors(oob[:oobn]); err != nil {
		return m, err
	}
	if _, err = io.ReadFull(conn, m.buf[n:]); err != nil {
		return m, err
	}
	size := binary.NativeEndian.Uint32(m.buf[8:])
	if size > vhostPayload {
		return m, fmt.Errorf("a vhost-user message of %d bytes", size)
	}
	m.buf = append(m.buf, make([]byte, size)...)
	_, err = io.ReadFull(conn, m.buf[vhostHeader:])
	return m, err
}

func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return unix.ParseUnixRights(&list[0])
}
