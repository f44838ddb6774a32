// Package node wires the parts into one node.
package node
