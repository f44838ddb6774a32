package chunkstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// ErrNoRecord says that there is no record of that name.
var ErrNoRecord = errors.New("no such record")

// MaxRecordBytes is the longest value of a record.
const MaxRecordBytes = 64 << 10

// maxNameBytes bounds namespace and key of a record, and the key of a
// datastore entry; Badger takes keys of up to 65,000 bytes.
const maxNameBytes = 4 << 10

// PutRecord keeps a small value of the caller's under a name: a namespace,
// which is not empty and has no zero byte, and a key in it. It replaces the
// record of that name.
func (s *Store) PutRecord(ns, key string, value []byte) error {
	k, err := recordKey(ns, key)
	if err != nil {
		return err
	}
	if len(value) > MaxRecordBytes {
		return fmt.Errorf("record %s/%s: %d bytes are more than %d", ns, key, len(value), MaxRecordBytes)
	}
	return s.setEntry(k, value)
}

// Record returns the value of a record, or an error that matches ErrNoRecord.
// The slice is the caller's own.
func (s *Store) Record(ns, key string) ([]byte, error) {
	k, err := recordKey(ns, key)
	if err != nil {
		return nil, err
	}
	value, err := s.entry(k)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, fmt.Errorf("%s/%s: %w", ns, key, ErrNoRecord)
	}
	return value, err
}

// DeleteRecord forgets a record; it does nothing if there is none.
func (s *Store) DeleteRecord(ns, key string) error {
	k, err := recordKey(ns, key)
	if err != nil {
		return err
	}
	return s.deleteEntry(k)
}

// Records calls fn for each record of a namespace, in the order of the keys,
// as they are when it starts. value is fn's own. It ends with the first error
// of fn, which it returns as it is.
func (s *Store) Records(ns string, fn func(key string, value []byte) error) error {
	prefix, err := recordKey(ns, "")
	if err != nil {
		return err
	}
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	return s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := string(it.Item().Key()[len(prefix):])
			value, err := copyValue(it.Item())
			if err != nil {
				return fmt.Errorf("read record %s/%s from store %s: %w", ns, key, s.dir, err)
			}
			if err := fn(key, value); err != nil {
				return err
			}
		}
		return nil
	})
}

func recordKey(ns, key string) ([]byte, error) {
	if ns == "" || strings.ContainsRune(ns, 0) || len(ns)+len(key) > maxNameBytes {
		return nil, fmt.Errorf("record name %.80q/%.80q is not valid", ns, key)
	}
	k := make([]byte, 0, 2+len(ns)+len(key))
	k = append(k, kindRecord)
	k = append(k, ns...)
	k = append(k, 0)
	return append(k, key...), nil
}

// setEntry, entry and deleteEntry are the small entries beside the chunks.

func (s *Store) setEntry(key, value []byte) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	size := int64(len(key) + len(value))
	return s.update(size, s.smallReserve(), func(txn *badger.Txn) error { return txn.Set(key, value) })
}

func (s *Store) deleteEntry(key []byte) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	return s.update(int64(len(key)), s.smallReserve(), func(txn *badger.Txn) error { return txn.Delete(key) })
}

// entry returns a copy of a value; badger.ErrKeyNotFound is passed on.
func (s *Store) entry(key []byte) (value []byte, err error) {
	if err := s.calls.enter(); err != nil {
		return nil, err
	}
	defer s.calls.leave()
	err = s.view(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		value, err = copyValue(item)
		return err
	})
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
		err = fmt.Errorf("read from store %s: %w", s.dir, err)
	}
	return value, err
}

// errUnreadable is what Badger hides behind an empty value.
var errUnreadable = errors.New("value could not be read")

func copyValue(item *badger.Item) ([]byte, error) {
	var value []byte
	err := item.Value(func(v []byte) error {
		if len(v) == 0 && item.ValueSize() != 0 {
			return errUnreadable
		}
		value = append([]byte{}, v...)
		return nil
	})
	return value, err
}
