package process

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"

	"github.com/polygate/polygate/internal/fault"
)

// What is said over the sockets of a run is frames: a byte that says what it is, the length in four bytes, and so many bytes. Who
// reads is told how long a frame may be, and reads no more: on one side of these sockets there is a sandbox.

// kind is what a frame is.
type kind byte

// The kinds of frames.
const (
	frameTask    kind = 1 // shim to init: firstTask
	frameEnd     kind = 2 // shim to init: end politely
	frameBegun   kind = 3 // init to shim: begun
	frameStop    kind = 4 // gateway to shim: stopCall
	frameNews    kind = 5 // gateway to shim: tell of changes; shim to gateway: the status is another
	frameDone    kind = 6 // shim to gateway: understood
	frameCommand kind = 7 // gateway to init: command
	frameInput   kind = 8 // gateway to init: at most chunk bytes of the standard input
	frameEOF     kind = 9 // gateway to init: the input's end
	frameResize  kind = 10
	frameSignal  kind = 11 // gateway to init: the name of a signal
	frameTaken   kind = 12 // init to gateway: one frame of input was taken
	frameOutput  kind = 13 // init to gateway
	frameError   kind = 14 // init to gateway: of the standard error
	frameExit    kind = 15 // init to gateway: ended; the last
)

// Bounds of frames.
const (
	chunk       = 32 << 10 // of input and output
	window      = 8        // frames of input on their way
	maxFrame    = 64 << 10
	maxTaskSize = 4 << 20 // of a command with its environment
)

var errFrame = fault.New(fault.BadUpstream, "what came out of the sandbox makes no sense")

// frames reads and writes them. Its writing methods can be called at the same time.
type frames struct {
	rw io.ReadWriter
	mu sync.Mutex // one frame is written at a time
}

// read returns the next frame, whose payload is at most so long.
func (f *frames) read(most int) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.rw, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if uint64(n) > uint64(most) {
		return 0, nil, errFrame
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(f.rw, b); err != nil {
		return 0, nil, err
	}
	return kind(head[0]), b, nil
}

func (f *frames) write(k kind, b []byte) error {
	head := make([]byte, 5, 5+len(b))
	head[0] = byte(k)
	binary.BigEndian.PutUint32(head[1:], uint32(len(b)))
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.rw.Write(append(head, b...))
	return err
}

func (f *frames) writeJSON(k kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(k, b)
}

// want reads a frame that must be of one kind.
func (f *frames) want(k kind, most int, v any) error {
	got, b, err := f.read(most)
	if err != nil {
		return err
	}
	if got != k {
		return errFrame
	}
	if v == nil {
		return nil
	}
	if json.Unmarshal(b, v) != nil {
		return errFrame
	}
	return nil
}

// firstTask is what the first process of a sandbox is to do.
type firstTask struct {
	Command []string `json:"command"` // never empty
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Hold    bool     `json:"hold,omitempty"`  // its input stays open: a shell that waits
	User    int      `json:"user,omitempty"`  // to become; 0 = stay
	Plain   bool     `json:"plain,omitempty"` // without namespaces: what is left is to be killed one by one
	File    int64    `json:"file"`            // bytes of one file
	Data    int64    `json:"data,omitempty"`  // bytes of one process; 0 = a group bounds them
	Pids    int      `json:"pids,omitempty"`  // of the user; 0 = a group bounds them
}

// begun is the first process's answer.
type begun struct {
	Error string `json:"error,omitempty"`
}

// stopCall asks a shim to end its run.
type stopCall struct {
	Grace int64 `json:"grace_ms"`
}

// command is what Exec runs.
type command struct {
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"` // beside the sandbox's own
	TTY     bool     `json:"tty,omitempty"`
}

// size is that of a terminal.
type size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// ended is how a command ended.
type ended struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
}

// check makes an answer of a sandbox one that can be passed on.
func (e ended) check() (ended, error) {
	if e.Code < 0 || e.Code > 255 || e.Signal != "" && signalNumber(e.Signal) == 0 {
		return ended{}, errFrame
	}
	return e, nil
}
