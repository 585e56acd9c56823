package process

import (
	"encoding/binary"
	"runtime"
	"syscall"

	"golang.org/x/net/bpf"
)

// What of the kernel a sandbox has no business with: the calls that make namespaces and mounts (with which kernels have been broken
// out of), load code into it, or reach what is not kept apart, such as keys. The list is what container runtimes refuse, too.

// seccomp(2) return values, and where its data is.
const (
	seccompErrno = 0x00050000
	seccompAllow = 0x7fff0000
	offNumber    = 0
	offArch      = 4
	offArg0      = 16
	offArg1      = 24
)

// abi is what differs between machines.
type abi struct {
	arch          uint32
	clone, ioctl  uint32
	most          uint32 // numbers from here on are another ABI's (x32); 0 = none
	refused       []uint32
	cloneNewerNum uint32 // clone3, whose arguments no filter can see: its callers fall back to clone
}

// abiOf returns nil for a machine that we have no list for.
func abiOf(goarch string) *abi {
	// io_uring, and the newer calls that mount: the same everywhere.
	common := []uint32{425, 426, 427, 428, 429, 430, 431, 432, 433, 442}
	switch goarch {
	case "amd64":
		return &abi{arch: 0xc000003e, clone: 56, ioctl: 16, most: 0x40000000, cloneNewerNum: 435, refused: append(common,
			165, 166, 155, 272, 308, // mount, umount2, pivot_root, unshare, setns
			250, 248, 249, 321, 298, 323, // keyctl, add_key, request_key, bpf, perf_event_open, userfaultfd
			246, 320, 175, 313, 176, 304, // kexec_load, kexec_file_load, init_module, finit_module, delete_module, open_by_handle_at
			179, 167, 168, 169, 103, 163)} // quotactl, swapon, swapoff, reboot, syslog, acct
	case "arm64":
		return &abi{arch: 0xc00000b7, clone: 220, ioctl: 29, cloneNewerNum: 435, refused: append(common,
			40, 39, 41, 97, 268, 219, 217, 218, 280, 241, 282, 104, 294, 105, 273, 106, 265, 60, 224, 225, 142, 116, 89)}
	}
	return nil
}

// program returns the filter, nil without a list.
func (a *abi) program() ([]byte, error) {
	if a == nil {
		return nil, nil
	}
	const newUser = syscall.CLONE_NEWUSER
	tests := []bpf.Instruction{}
	var refusals []int // indexes of jumps to the refusal, whose distance is known at the end
	refuseIf := func(cond bpf.JumpTest, v uint32) {
		refusals = append(refusals, len(tests))
		tests = append(tests, bpf.JumpIf{Cond: cond, Val: v})
	}
	tests = append(tests, bpf.LoadAbsolute{Off: offArch, Size: 4})
	refuseIf(bpf.JumpNotEqual, a.arch)
	tests = append(tests, bpf.LoadAbsolute{Off: offNumber, Size: 4})
	if a.most != 0 {
		refuseIf(bpf.JumpGreaterOrEqual, a.most)
	}
	for _, n := range a.refused {
		refuseIf(bpf.JumpEqual, n)
	}
	tests = append(tests, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.cloneNewerNum, SkipTrue: 1}, bpf.RetConstant{Val: seccompErrno | uint32(syscall.ENOSYS)},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.clone, SkipTrue: 3}, bpf.LoadAbsolute{Off: offArg0, Size: 4})
	refuseIf(bpf.JumpBitsSet, newUser)
	tests = append(tests, bpf.RetConstant{Val: seccompAllow},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.ioctl, SkipTrue: 2}, bpf.LoadAbsolute{Off: offArg1, Size: 4})
	refuseIf(bpf.JumpEqual, syscall.TIOCSTI)
	tests = append(tests, bpf.RetConstant{Val: seccompAllow}, bpf.RetConstant{Val: seccompErrno | uint32(syscall.EPERM)})
	for _, i := range refusals {
		j := tests[i].(bpf.JumpIf)
		j.SkipTrue = uint8(len(tests) - 2 - i)
		tests[i] = j
	}
	raw, err := bpf.Assemble(tests)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, r := range raw {
		b = binary.NativeEndian.AppendUint16(b, r.Op)
		b = append(b, r.Jt, r.Jf)
		b = binary.NativeEndian.AppendUint32(b, r.K)
	}
	return b, nil
}

// filter returns the filter of this machine.
func filter() ([]byte, error) { return abiOf(runtime.GOARCH).program() }
