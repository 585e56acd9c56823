//go:build !unix

package seal

import "os"

// Private says whether a file with a secret is its owner's alone, as far as its mode tells.
func Private(info os.FileInfo) bool { return info.Mode().Perm()&0o077 == 0 }
