//! A network of its own for one test.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Loopback, and a pair of interfaces that leads nowhere: Go's nodes take a machine without one for offline.
const SETUP: &str = "ip link set lo up && ip link add lab0 type veth peer name lab1 && ip addr add 10.99.0.1/24 dev lab0 \
    && ip link set lab0 up && ip link set lab1 up && ip route add default via 10.99.0.254 && echo ready \
    && exec sleep infinity";

/// Ends with its last process and thread; this one keeps it.
pub struct Namespace(Child);

impl Namespace {
    /// Makes one and moves this thread into it, and with it what it starts from now on.
    pub fn enter() -> Self {
        let mut keeper = bound("unshare")
            .args(["--net", "sh", "-c", SETUP])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (Debian package util-linux) runs");
        let mut said = String::new();
        let stdout = keeper.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "a network namespace needs root and iproute2");
        let net = File::open(format!("/proc/{}/ns/net", keeper.id())).unwrap();
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        Self(keeper)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that ends with this thread, however it ends.
pub fn bound(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
