"""What the jobs of agent.py call: the real Linux peers, inside the guest. Everything these write lies in RUN, emptied for each row."""
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import echo

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = "/run/xi"
MODULES = ("ipv6 ppp_generic ppp_async ppp_mppe ppp_deflate bsd_comp pptp veth sch_netem ifb act_mirred sch_ingress cls_matchall "
           "iptable_nat iptable_raw xt_tcpudp xt_nat xt_MASQUERADE xt_CT nf_nat_pptp")
PPTP_PORT = ":06BB"   # 1723 as /proc/net/tcp writes it
CLONE_NEWNS, CLONE_NEWNET, MS_REC, MS_PRIVATE = 0x20000, 0x40000000, 0x4000, 0x40000

libc = ctypes.CDLL(None, use_errno=True)
processes = {}   # name: Popen, what client and server started


def sh(script):
    subprocess.run(["bash", "-ec", script], check=True)


def prepare(address, secrets):
    """Once per boot: modules, vec0, pppd's own files. secrets: lines of chap-secrets, taken for PAP too.

    pptpd's queue of new connections is short: with SYN cookies a client would think itself connected when it is not."""
    sh("modprobe -a %s; ip addr add %s/24 dev vec0; ip link set vec0 up; ethtool -K vec0 tx off tso off gso off gro off >/dev/null 2>&1 || true"
       "; sysctl -qw net.ipv4.tcp_syncookies=0; ip link add ifb0 type ifb 2>/dev/null || true; ip link set ifb0 up" % (MODULES, address))
    for name in os.listdir("/etc/ppp"):   # hooks only cost time, and this view of /etc is the guest's own
        if name.startswith(("ip-", "ipv6-", "auth-")):
            path = os.path.join("/etc/ppp", name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    open("/etc/ppp/options", "w").close()
    for kind in "chap", "pap":
        with open("/etc/ppp/%s-secrets" % kind, "w") as f:
            f.write(secrets)
        os.chmod(f.name, 0o600)
    fresh()


def fresh():
    """Before each row: nothing of the row before is left."""
    for process in processes.values():
        process.kill()
    signal_all("SIGKILL", "pppd", "pptp", "pptpd", "pptpctrl", "iperf3")
    for process in processes.values():
        process.wait()
    processes.clear()
    for directory in RUN, "/run/pptp":
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)


def signal_all(name, *programs):
    """Sends a signal to every process of these programs."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open("/proc/%s/comm" % entry) as f:
                if f.read().strip() in programs:
                    os.kill(int(entry), getattr(signal, name))
        except (FileNotFoundError, ProcessLookupError):
            pass


def enter(netns):
    """Moves this job, and what it starts, into a network namespace of the guest."""
    with open("/run/netns/" + netns) as f:
        if libc.setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), netns)


def private_pptp():
    """Gives this job a /run/pptp of its own: pptp-linux otherwise shares a control connection by server address."""
    if (libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(b"none", b"/run/pptp", b"tmpfs", 0, None)):
        raise OSError(ctypes.get_errno(), "/run/pptp")


def start(name, *argv):
    with open("%s/%s.out" % (RUN, name), "w") as out:
        processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def client(name, mode, remote, plugin, options):
    """A call to remote: pppd over pptp-linux (mode pty) or over a kernel PPTP socket (mode kernel)."""
    options = options + ["logfile", "%s/%s.log" % (RUN, name)]
    if mode == "kernel":
        start(name, sys.executable, HERE + "/kpptp.py", "client", source(remote), remote, plugin, *options)
    else:
        start(name, "pppd", "pty", "pptp %s --nolaunchpppd --nohostroute --loglevel 1" % remote, "nodetach", *options)


def source(remote):
    """Our address toward remote."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((remote, 9))
        return s.getsockname()[0]


def server(mode, address, plugin, options, pool):
    """A server for one call in the kernel, or pptpd with one pppd for each call; all pppds share the log."""
    options = options + ["logfile", RUN + "/server.log"]
    if mode == "kernel":
        start("server", sys.executable, HERE + "/kpptp.py", "server", address, plugin, *options)
    else:
        with open(RUN + "/options", "w") as f:
            f.write("\n".join(options) + "\n")
        with open(RUN + "/pptpd.conf", "w") as f:
            f.write("option %s/options\nlisten %s\n%s\n" % (RUN, address, pool))
        start("server", "pptpd", "--fg", "-c", f.name, "-p", RUN + "/pptpd.pid")
    if not wait(listening, 10):
        raise TimeoutError("nothing listens: %s" % read("server.out"))


def listening():
    with open("/proc/thread-self/net/tcp") as f:
        return any(line.split()[1].endswith(PPTP_PORT) and line.split()[3] == "0A" for line in f.readlines()[1:])


def wait(condition, limit):
    """Waits until condition() holds, returns whether it did within limit seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def read(name):
    """A file in RUN; empty if there is none."""
    try:
        with open("%s/%s" % (RUN, name), errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def await_log(name, patterns, limit):
    """Waits until every pattern is in the log of a client or server, or it ended. Returns JSON: found, status (null while it runs), log."""
    def found():
        log = read(name + ".log")
        return all(re.search(p, log) for p in patterns)
    process = processes[name]
    wait(lambda: found() or process.poll() is not None, limit)
    return json.dumps({"found": found(), "status": process.poll(), "log": read(name + ".log")})


def await_end(name, limit):
    """Waits for the end of a client or server. Returns JSON: status (null: still running), log."""
    process = processes[name]
    wait(lambda: process.poll() is not None, limit)
    return json.dumps({"status": process.poll(), "log": read(name + ".log")})


def await_links(count, limit):
    """Waits until there are so many ppp devices in this job's network namespace. Returns how many there are."""
    def links():
        return sum(name.startswith("ppp") for _, name in socket.if_nameindex())
    wait(lambda: links() == count, limit)
    return str(links())


def logs():
    """Everything in RUN, for a failed row."""
    return "".join("==> %s\n%s\n" % (name, read(name)) for name in sorted(os.listdir(RUN)))


def ping(*args):
    return json.dumps(echo.run(args))


def netem(options):
    """Loss, delay and order in both directions of vec0: egress at its root, ingress by way of ifb0. Empty: none."""
    if options:
        sh("tc qdisc add dev vec0 root netem {0}; tc qdisc add dev vec0 ingress; tc qdisc add dev ifb0 root netem {0}; "
           "tc filter add dev vec0 parent ffff: protocol all matchall action mirred egress redirect dev ifb0".format(options))
    else:
        sh("tc qdisc del dev vec0 ingress; tc qdisc del dev vec0 root; tc qdisc del dev ifb0 root")
