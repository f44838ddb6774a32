package main

import (
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/spf13/cobra"
)

// app is what the commands of one command line share. It is made once, filled
// by the flags, and not changed while a command runs.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	settings settings
	json     bool
	verbose  int // how often -v was given
	log      *slog.Logger

	// started says that flags, arguments and settings are good and the command
	// itself is running: an error before that is the user's command line.
	started bool
}

// The groups in which help lists the commands.
const (
	groupImages = "images"
	groupNode   = "node"
	groupOther  = "other"
)

// newRoot returns the whole command tree.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "flistnode",
		Short: "Pack directories into flists, and mount them anywhere by CID",
		Long: `flistnode packs a directory into an flist: a small piece of metadata that names
every file and the hash of every piece of content, and the content itself in
chunks. An flist is named by its CID, and the CID alone decides every byte.

Nodes find each other without a server, announce what they hold, and fetch what
they miss from one another. A mounted flist reads like a local directory; only
the chunks that are really read cross the network, and each is verified.

FLIST in the commands below is an flist's CID or a .flist file.`,
		Example: `  flistnode daemon                      # on every machine
  flistnode pack ./rootfs               # prints the CID
  flistnode mount CID /mnt/image        # on any other machine
  flistnode umount /mnt/image`,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.start(cmd)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddGroup(
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupNode, Title: "The node:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetCompletionCommandGroupID(groupOther)
	root.SetHelpCommandGroupID(groupOther)
	root.SetUsageFunc(usage)
	root.SetHelpCommand(newHelp())

	f := root.PersistentFlags()
	f.SortFlags = false
	f.BoolVar(&a.json, "json", false, "print JSON: one document, or one line per entry where the output is a list")
	f.CountVarP(&a.verbose, "verbose", "v", "log what is done (-v) and every step of it (-vv) to stderr")
	a.settings.register(f)

	addCommands(root, groupImages,
		newPack(a), newMount(a), newUmount(a), newServeVirtiofs(a), newUnpack(a), newFetch(a),
		newLs(a), newTree(a), newStat(a), newCat(a), newDiff(a), newInspect(a), newVerify(a), newProfile(a), newFLists(a),
		newReplicate(a))
	addCommands(root, groupNode,
		newDaemon(a), newStatus(a), newPeers(a), newWhy(a), newLimits(a), newID(a), newMounts(a), newConfig(a), newTestnet(a), newBench(a))
	addCommands(root, groupOther, newVersion(a), newDocs(), newHold())
	addTopics(root)
	return root
}

// wantArgs refuses fewer than least and more than most arguments, and says what
// they should be.
func wantArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s: too few arguments: want \"%s\"", cmd.Name(), cmd.UseLine())
		case len(args) > most:
			return usagef("%s: unexpected argument %s: want \"%s\"", cmd.Name(), quote(args[most]), cmd.UseLine())
		}
		if i := slices.Index(args, ""); i >= 0 { // a variable that is not set
			return usagef("%s: argument %d is empty: want \"%s\"", cmd.Name(), i+1, cmd.UseLine())
		}
		return nil
	}
}

// unknownCommand refuses a name, and says which it could have been.
func unknownCommand(cmd *cobra.Command, name string) error {
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return withHint(usagef("unknown command %s", quote(name)), "Did you mean "+strings.Join(near, " or ")+"?")
	}
	return usagef("unknown command %s", quote(name))
}

func addCommands(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// start settles the configuration and the log before a command runs. Commands
// that need neither (help, completion, documents) are left alone, so that a
// broken configuration file cannot keep anybody from reading the manual.
func (a *app) start(cmd *cobra.Command) error {
	if needsSettings(cmd) {
		if err := a.settings.resolve(os.LookupEnv); err != nil {
			return err
		}
	}
	level := a.settings.logLevel
	if cmd.Name() == "daemon" && a.settings.origin["log-level"] == originDefault {
		level = slog.LevelInfo
	}
	switch {
	case a.verbose >= 2:
		level = min(level, slog.LevelDebug)
	case a.verbose == 1:
		level = min(level, slog.LevelInfo)
	}
	opts := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(a.stderr, opts)
	if a.settings.logFormat == "json" {
		handler = slog.NewJSONHandler(a.stderr, opts)
	}
	a.log = slog.New(handler)
	quietLibp2p(handler, a.verbose >= 2)
	a.started = true
	return nil
}

// quietLibp2p gives libp2p's own log to handler if it is wanted, else to
// nobody: what matters in it comes back as errors. GOLOG_LOG_LEVEL, which
// people who search for faults in libp2p know, keeps its meaning.
func quietLibp2p(handler slog.Handler, wanted bool) {
	if os.Getenv("GOLOG_LOG_LEVEL") != "" {
		return
	}
	if !wanted {
		handler = slog.DiscardHandler
		golog.SetupLogging(golog.Config{Level: golog.LevelFatal}) // kad-dht's own
	}
	gologshim.SetDefaultHandler(handler)
}

func needsSettings(cmd *cobra.Command) bool {
	for c := cmd; c.HasParent(); c = c.Parent() {
		switch c.Name() {
		case "help", "completion", "docs", "version", holdCommand, cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
			return false
		}
	}
	return cmd.HasParent()
}
