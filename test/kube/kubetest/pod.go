package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

// Pod returns a pod of the tools that Pod Security "restricted" admits. args begin with a subcommand.
func Pod(name string, args ...string) *corev1.Pod {
	yes, no, user := true, false, int64(10001)
	zero := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &zero,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "main", Image: Image, Args: args, SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
		},
	}
}

// Run makes a pod and waits until it runs.
func (c *Cluster) Run(t testing.TB, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := c.Client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c.WaitPod(t, namespace, made.Name, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" })
}

// WaitPod waits until a pod is as done wants it.
func (c *Cluster) WaitPod(t testing.TB, namespace, name string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	Eventually(t, 60*time.Second, "wanted state of pod "+namespace+"/"+name, func(ctx context.Context) (bool, error) {
		p, err := c.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		pod = p
		return done(p), fmt.Errorf("it is %s: %v", p.Status.Phase, p.Status.Conditions)
	})
	return pod
}

// Exec runs a command in a pod's first container, as the administrator. A code of -1 is an error beside it.
func (c *Cluster) Exec(t testing.TB, namespace, pod string, command ...string) (out string, code int) {
	t.Helper()
	u := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	x, err := remotecommand.NewWebSocketExecutor(c.Config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	var b, complaints bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = x.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &b, Stderr: &complaints})
	b.Write(complaints.Bytes())
	var ended exec.CodeExitError
	switch {
	case err == nil:
		return b.String(), 0
	case errors.As(err, &ended):
		return b.String(), ended.Code
	}
	return b.String() + err.Error(), -1
}

// Dial says for each host:port whether a pod can connect to it.
func (c *Cluster) Dial(t testing.TB, namespace, pod string, addresses ...string) map[string]bool {
	t.Helper()
	out, code := c.Exec(t, namespace, pod, append([]string{"/tools", "dial"}, addresses...)...)
	if code < 0 {
		t.Fatalf("dial in %s/%s: %s", namespace, pod, out)
	}
	open := make(map[string]bool)
	for line := range strings.Lines(out) {
		address, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		open[address] = result == "open"
	}
	if len(open) != len(addresses) {
		t.Fatalf("dial in %s/%s: %q", namespace, pod, out)
	}
	return open
}

// Kill ends a program of the cluster, such as kube-apiserver, by SIGKILL. It is started again after half a second.
func (c *Cluster) Kill(t testing.TB, program string) {
	t.Helper()
	pids, err := c.programs(program)
	if err != nil || len(pids) != 1 {
		t.Fatalf("%d processes of %s: %v", len(pids), program, err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// programs finds processes "kube PROGRAM" in the cluster's own PID namespace.
func (c *Cluster) programs(program string) ([]int, error) {
	binary, err := c.built("bin/kube")
	if err != nil {
		return nil, err
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range lines {
		b, err := os.ReadFile(file)
		args := strings.Split(string(b), "\x00")
		if err != nil || len(args) < 2 || args[0] != "kube" || args[1] != program {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		exe, linkErr := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
		if err == nil && linkErr == nil && strings.TrimSuffix(exe, " (deleted)") == binary {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
