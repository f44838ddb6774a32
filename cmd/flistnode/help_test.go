package main

import (
	"io"
	"testing"

	"github.com/spf13/cobra"
)

func TestEveryCommandTeaches(t *testing.T) {
	root := newRoot(&app{stdout: io.Discard, stderr: io.Discard})
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.IsAdditionalHelpTopicCommand() {
			return
		}
		if c.Short == "" || c.Long == "" {
			t.Errorf("%s has no text", c.CommandPath())
		}
		if c.Runnable() && !c.HasExample() {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}
