package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newDocs() *cobra.Command {
	docs := &cobra.Command{
		Use:    "docs",
		Short:  "Write the manual as files",
		Long:   `Write the manual of every command as files, for packagers.`,
		Hidden: true,
		Args:   wantArgs(0, 0),
	}
	docs.AddCommand(
		&cobra.Command{
			Use:     "man DIR",
			Short:   "Write man pages into DIR",
			Long:    `Write a man page (section 1) for every command into DIR, which is made if need be.`,
			Example: `  flistnode docs man ./man && man ./man/flistnode-pack.1`,
			Args:    wantArgs(1, 1),
			RunE: func(cmd *cobra.Command, args []string) error {
				header := &doc.GenManHeader{Section: "1", Source: "flistnode", Manual: "flistnode manual"}
				return writeDocs(args[0], func(dir string) error {
					cmd.Root().DisableAutoGenTag = true
					if err := manTopics(cmd.Root(), header, dir); err != nil {
						return err
					}
					return doc.GenManTree(cmd.Root(), header, dir)
				})
			},
		},
		&cobra.Command{
			Use:     "markdown DIR",
			Short:   "Write Markdown into DIR",
			Long:    `Write a Markdown page for every command into DIR, which is made if need be.`,
			Example: `  flistnode docs markdown ./commands`,
			Args:    wantArgs(1, 1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return writeDocs(args[0], func(dir string) error {
					cmd.Root().DisableAutoGenTag = true
					return doc.GenMarkdownTree(cmd.Root(), dir)
				})
			},
		},
	)
	return docs
}

// manTopics writes the pages of help topics, which the generator for commands
// leaves out.
func manTopics(root *cobra.Command, header *doc.GenManHeader, dir string) error {
	for _, c := range root.Commands() {
		if !c.IsAdditionalHelpTopicCommand() {
			continue
		}
		var page bytes.Buffer
		h := *header
		h.Title = strings.ToUpper("flistnode-" + c.Name())
		if err := doc.GenMan(c, &h, &page); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "flistnode-"+c.Name()+".1"), page.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func writeDocs(dir string, write func(dir string) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory for the manual: %w", err)
	}
	if err := write(dir); err != nil {
		return fmt.Errorf("write the manual to %s: %w", quote(dir), err)
	}
	return nil
}
