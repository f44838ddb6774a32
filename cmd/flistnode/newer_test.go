package main

import (
	"bytes"
	"context"
	"os"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flistnode/flistnode/flist/chunk"
)

// newer FILE writes a .flist file of a format version that is yet to come.
func cmdNewer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newer FILE")
	}
	root, err := cbor.Marshal(map[string]any{"flist": 99, "something": "new"})
	ts.Check(err)
	id := cid.NewCidV1(cid.DagCBOR, chunk.Sum(root).Multihash())
	var file bytes.Buffer
	zw, err := zstd.NewWriter(&file)
	ts.Check(err)
	out, err := storage.NewWritable(zw, []cid.Cid{id}, car.WriteAsCarV1(true))
	ts.Check(err)
	ts.Check(out.Put(context.Background(), id.KeyString(), root))
	ts.Check(out.Finalize())
	ts.Check(zw.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), file.Bytes(), 0o600))
}
