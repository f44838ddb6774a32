package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage prints what "flistnode help COMMAND" shows after the command's text:
// its own flags first, then the few that all commands share; the settings of
// the node are left to "flistnode help settings".
func usage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	fmt.Fprint(w, "Usage:\n")
	if cmd.Runnable() && cmd.HasParent() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s COMMAND [flags]\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	usageCommands(w, cmd)
	usageFlags(w, cmd)
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nMore with \"%s help COMMAND\".\n", cmd.Root().CommandPath())
	}
	return nil
}

func usageCommands(w io.Writer, cmd *cobra.Command) {
	width := 0
	for _, c := range cmd.Commands() {
		width = max(width, len(c.Name()))
	}
	list := func(title string, match func(*cobra.Command) bool) {
		first := true
		for _, c := range cmd.Commands() {
			if !match(c) {
				continue
			}
			if first {
				fmt.Fprintf(w, "\n%s\n", title)
				first = false
			}
			fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name(), c.Short)
		}
	}
	for _, g := range cmd.Groups() {
		list(g.Title, func(c *cobra.Command) bool { return c.GroupID == g.ID && listed(c) })
	}
	title := "Commands:"
	if len(cmd.Groups()) > 0 {
		title = "More commands:"
	}
	list(title, func(c *cobra.Command) bool { return c.GroupID == "" && listed(c) })
	list("Topics:", func(c *cobra.Command) bool { return c.IsAdditionalHelpTopicCommand() })
}

// newHelp returns the help command, which fails for what there is no help on.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show help on a command or a topic",
		Long:    `Show help on a command or one of the topics listed by "flistnode help".`,
		Example: "  flistnode help pack\n  flistnode help exit-codes",
		GroupID: groupOther,
		RunE: func(cmd *cobra.Command, args []string) error {
			on, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = unknownCommand(on, rest[0])
			}
			if err != nil {
				return usageError(err, cmd.Root())
			}
			on.InitDefaultHelpFlag()
			return on.Help()
		},
	}
}

func listed(c *cobra.Command) bool { return c.IsAvailableCommand() || c.Name() == "help" }

func usageFlags(w io.Writer, cmd *cobra.Command) {
	if cmd.IsAdditionalHelpTopicCommand() {
		return
	}
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	common := pflag.NewFlagSet("", pflag.ContinueOnError)
	common.SortFlags = false
	node := 0
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if cmd.HasParent() {
			own.AddFlag(f)
		}
	})
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		switch {
		case f.Annotations[nodeSetting] == nil:
			common.AddFlag(f)
		case cmd.Name() == "daemon":
			common.AddFlag(f)
			node++
		default:
			node++
		}
	})
	if own.HasAvailableFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s", own.FlagUsagesWrapped(100))
	}
	fmt.Fprintf(w, "\nCommon flags:\n%s", common.FlagUsagesWrapped(100))
	if node > 0 && cmd.Name() != "daemon" {
		fmt.Fprint(w, "\nFlags of the node (--listen, --peer ...) are in \"flistnode help settings\".\n")
	}
}

// addTopics adds the pages of help that are about no single command.
func addTopics(root *cobra.Command) {
	var sets strings.Builder
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Annotations[isSetting] != nil {
			env := envName(f.Name)
			fmt.Fprintf(&sets, "    --%-14s %s\n", f.Name, env)
		}
	})
	node := pflag.NewFlagSet("", pflag.ContinueOnError)
	node.SortFlags = false
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Annotations[isSetting] != nil {
			node.AddFlag(f)
		}
	})
	root.AddCommand(
		&cobra.Command{
			Use:   "exit-codes",
			Short: "What the exit code of a command means",
			Long:  exitCodesHelp,
		},
		&cobra.Command{
			Use:   "settings",
			Short: "Settings by flag, environment and configuration file",
			Long: settingsHelp + "\nFlags and their environment variables:\n\n" + sets.String() +
				"\nThe flags:\n\n" + node.FlagUsagesWrapped(100),
		},
	)
}

const exitCodesHelp = `The exit code of every flistnode command:

    0    done
    1    failed, for a reason the message gives
    2    the command line, a setting or the configuration file is wrong
    3    not found: no such path, an flist nobody has, a chunk nobody has
    4    corrupt or hostile data: not an flist, a damaged .flist file, a newer format
    5    in use: the data directory belongs to another process, a mount is busy
    6    a difference was found (diff), or something is missing (replicate, verify) or damaged (verify)
    130  interrupted by ctrl-C or SIGTERM; a second ctrl-C stops at once
    141  nobody reads the output any more, as with "head"

"daemon" and a "mount" in the foreground end with 0 when they are told to stop.

A message is one line on stderr, "flistnode: WHAT IS WRONG", and often a second
line that says what to do.`

const settingsHelp = `A setting is looked for in this order: flag, environment, configuration file,
default. "flistnode config" prints what holds and where it came from.

The configuration file is YAML with the names of the flags as keys; a key nobody
knows is an error. It is --config FILE, else /etc/flistnode/config.yaml for
root and $XDG_CONFIG_HOME/flistnode/config.yaml for all others:

    data: /srv/flistnode
    listen:
      - /ip4/0.0.0.0/tcp/4101
      - /ip4/0.0.0.0/udp/4101/quic-v1
    peer:
      - /ip4/192.0.2.7/tcp/4101/p2p/12D3KooW...
    swarm-key: /etc/flistnode/swarm.key
    no-mdns: true

A list in an environment variable is separated by commas; an empty variable
counts as none.

A daemon has settings of its own. A command that talks to a daemon uses --api to
find it and leaves the rest to it; a command without a daemon is a short-lived
node itself, under all of these settings, and listens on a free port unless told
otherwise.
`
