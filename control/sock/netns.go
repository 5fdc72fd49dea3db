package sock

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace without a name: it is gone when the last
// process, thread and open file in it are.
type Netns struct{ file *os.File }

const threadNetns = "/proc/thread-self/ns/net"

// NewNetns makes a network namespace. It needs CAP_SYS_ADMIN.
func NewNetns() (*Netns, error) {
	n := &Netns{}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n.file, err = os.Open(threadNetns)
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// OwnNetns is the network namespace that we are in.
func OwnNetns() (*Netns, error) {
	f, err := os.Open(threadNetns)
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	return &Netns{f}, nil
}

// Do runs f in the namespace, on a goroutine of its own. Sockets that f opens
// and processes that it starts stay there; goroutines that it starts are not
// in it.
func (n *Netns) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// FD is a descriptor of the namespace, open until Close.
func (n *Netns) FD() int { return int(n.file.Fd()) }

// Close lets go of the namespace.
func (n *Netns) Close() error { return n.file.Close() }

// onThread runs f on a goroutine whose thread may change its network
// namespace, and waits for it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		old, err := os.Open(threadNetns)
		if err != nil {
			done <- fmt.Errorf("own network namespace: %w", err)
			return
		}
		defer old.Close()
		err = f()
		// A thread that cannot go back stays locked and ends with the goroutine.
		if unix.Setns(int(old.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// OwnNamespaces makes cmd start as root of a user and network namespace of its
// own, which an ordinary user may do if the system allows it.
func OwnNamespaces(cmd *exec.Cmd) {
	attr(cmd).Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
}

// OwnNetwork makes cmd start in a network namespace of its own. It needs
// CAP_SYS_ADMIN.
func OwnNetwork(cmd *exec.Cmd) { attr(cmd).Cloneflags |= unix.CLONE_NEWNET }

// Tied makes cmd a process group of its own, which a terminal's ^C does not
// reach, and has it killed when we die.
func Tied(cmd *exec.Cmd) {
	attr(cmd).Setpgid = true
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
}

func attr(cmd *exec.Cmd) *syscall.SysProcAttr {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	return cmd.SysProcAttr
}

// Capability is a right of Linux, see capabilities(7).
type Capability uint8

// The rights that something here needs.
const (
	NetAdmin Capability = unix.CAP_NET_ADMIN
	NetRaw   Capability = unix.CAP_NET_RAW
	SysAdmin Capability = unix.CAP_SYS_ADMIN
)

// String returns the name, such as "CAP_NET_RAW".
func (c Capability) String() string {
	switch c {
	case NetAdmin:
		return "CAP_NET_ADMIN"
	case NetRaw:
		return "CAP_NET_RAW"
	case SysAdmin:
		return "CAP_SYS_ADMIN"
	}
	return fmt.Sprintf("capability %d", uint8(c))
}

// Missing returns those of want that this process does not have.
func Missing(want ...Capability) (missing []Capability) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if unix.Capget(&h, &d[0]) != nil {
		return nil
	}
	for _, c := range want {
		if d[c/32].Effective&(1<<(c%32)) == 0 {
			missing = append(missing, c)
		}
	}
	return missing
}

// IsPermission reports whether the kernel said that we may not.
func IsPermission(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}
