package plan

// Size is a number of bytes, written as a whole number or with KiB, MiB, GiB or TiB.
type Size int64
