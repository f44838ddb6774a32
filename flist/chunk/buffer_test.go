package chunk

import "testing"

func TestBuffersHaveTheLengthAskedForAndAreTakenBack(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 65536, 65537, MaxSize, MaxPackedSize, 3 << 20} {
		for range 3 {
			b := NewBuffer(n)
			if len(b) != n {
				t.Fatalf("NewBuffer(%d) has %d bytes", n, len(b))
			}
			Recycle(b)
		}
	}
}

func TestAPartOfABufferIsNotTakenBack(t *testing.T) {
	whole := NewBuffer(8192)
	Recycle(whole[100:])
	for range 100 {
		if b := NewBuffer(len(whole)); &b[len(b)-1] == &whole[len(whole)-1] {
			t.Fatal("a buffer was handed out that is still in use")
		}
	}
}

func TestARecycledBufferComesBack(t *testing.T) {
	for range 100 { // a pool may lose what it is given
		buf := NewBuffer(5000)
		Recycle(buf)
		if again := NewBuffer(8000); &again[0] == &buf[0] {
			return
		}
	}
	t.Error("a recycled buffer never came back")
}
