package audit

import "time"

// Rotation says when the file is closed as a segment and a new one is begun. A zero field is no bound; the zero Rotation never
// rotates.
type Rotation struct {
	MaxBytes int64         // once it is longer
	MaxAge   time.Duration // once it was begun longer ago
}

// DefaultRotation returns what fits most: 64 MiB or a day, whichever comes first.
func DefaultRotation() Rotation { return Rotation{MaxBytes: 64 << 20, MaxAge: 24 * time.Hour} }

// Retention says which segments are removed, oldest first and only wholly; the file that is being written never is. A zero
// field is no bound; the zero Retention keeps everything.
type Retention struct {
	MaxAge   time.Duration // closed longer ago than this
	MaxBytes int64         // of all segments of this log and its active file together
}

// DefaultRetention returns 400 days and no bound in size.
func DefaultRetention() Retention { return Retention{MaxAge: 400 * 24 * time.Hour} }

// Rotator is a Sink that can begin a new file; *File is one.
type Rotator interface {
	Sink
	// Rotate closes the file as a segment and begins a new one with header, whole lines, durably. After an error the new file
	// may have been begun or not: the caller looks what the sink holds. It returns the segment's path.
	Rotate(header []byte, now time.Time) (segment string, err error)
	// Prune removes the segments that the policy does not keep and returns their paths.
	Prune(keep Retention, now time.Time) (removed []string, err error)
}

// Mirror gets the lines that the drain has written, after they are durable in the file. It must neither block nor keep
// lines, whose memory is used again: a copy goes to a bounded queue, and what does not fit is dropped and counted.
type Mirror interface {
	Mirror(lines []byte)
}
