//! Against the TCP that Go's nodes use (gVisor's, set up as Tailscale does it), in a process of its own.

use std::{
    io::{BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
};

use super::{
    wire::{FAIR, FOUL, Link, THEIRS, Weather, Wire, join},
    *,
};

/// Packets through the process's pipes.
struct Pipes {
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    next: Option<Vec<u8>>,
    ended: bool,
    process: Child,
}

impl Pipes {
    fn start(args: &[&str]) -> Self {
        static PROGRAM: OnceLock<tempfile::TempDir> = OnceLock::new();
        let folder = PROGRAM.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/lab/tailnet");
            let mut go = Command::new("go");
            go.current_dir(source).env("CGO_ENABLED", "0");
            go.args(["build", "-mod=readonly", "-o"])
                .arg(folder.path())
                .arg("./gvisor");
            assert!(go.status().expect("Go is needed").success());
            folder
        });
        let mut process = Command::new(folder.path().join("gvisor"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let (sender, output) = sync_channel(4096);
        // Ends with the process.
        thread::spawn(move || {
            let mut length = [0; 2];
            while out.read_exact(&mut length).is_ok() {
                let mut packet = vec![0; u16::from_be_bytes(length).into()];
                if out.read_exact(&mut packet).is_err() || sender.send(packet).is_err() {
                    return;
                }
            }
        });
        Self {
            input: process.stdin.take().unwrap(),
            output,
            next: None,
            ended: false,
            process,
        }
    }

    fn has_succeeded(&mut self) -> bool {
        let status = self.process.try_wait().unwrap();
        status.is_some_and(|status| {
            assert!(status.success(), "Go is not content");
            true
        })
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Link for Pipes {
    fn receive(&mut self) -> Option<Vec<u8>> {
        self.next.take().or_else(|| self.output.try_recv().ok())
    }

    fn send(&mut self, packet: &[u8]) {
        let length = (packet.len() as u16).to_be_bytes();
        // A process that has ended needs no packets.
        let _ = self.input.write_all(&[&length, packet].concat());
    }

    fn wait(&mut self, most: Duration) {
        let received = self.output.recv_timeout(most.into());
        self.ended = received == Err(RecvTimeoutError::Disconnected);
        self.next = received.ok();
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

#[test]
fn go_connects_and_gets_everything_back() {
    for (weather, bytes) in [(FAIR, "8000000"), (FOUL, "1500000")] {
        let mut wire = Wire::new(Pipes::start(&["dial", bytes]), weather);
        wire.echo();
        while !wire.link.has_succeeded() {
            wire.link.wait(Duration::from_millis(10));
        }
    }
}

/// Sends so much while it reads it back; returns MiB per second towards Go and from it.
fn exchange(weather: Weather, bytes: usize) -> f64 {
    let mut wire = Wire::new(Pipes::start(&[]), weather);
    let data = pattern(bytes, 8);
    let (mut written, mut got) = (0, Vec::new());
    wire.dial((THEIRS, 81).into());
    let begin = std::time::Instant::now();
    wire.run(|tcp| {
        written += tcp.write(&data[written..]);
        if written == data.len() && tcp.may_send() {
            tcp.close();
        }
        let read = tcp.read(|bytes| {
            got.extend_from_slice(bytes);
            bytes.len()
        });
        read == Read::Eof
    });
    assert!(got == data);
    bytes as f64 / (1 << 20) as f64 / begin.elapsed().as_secs_f64()
}

#[test]
fn go_accepts_and_sends_everything_back() {
    for (loss, ms, bytes) in [
        (0, 0, 8 << 20),
        (10, 1, 3 << 20),
        (20, 5, 1 << 20),
        (10, 25, 1 << 19),
    ] {
        let weather = Weather {
            delay: Duration::from_millis(ms),
            loss,
            late: 0,
        };
        let rate = exchange(weather, bytes);
        println!(
            "{:>4.1} % loss, {:>2} ms: {rate:.2} MiB/s there and back",
            f64::from(loss) / 10.0,
            2 * ms
        );
    }
}

const MIB: f64 = (1 << 20) as f64;

/// Sends so much to Go; how many seconds that takes.
fn send_to_go(weather: Weather, seed: u64, bytes: usize) -> f64 {
    let mut wire = Wire::with_seed(Pipes::start(&[]), weather, seed);
    let data = pattern(bytes, 8);
    let (mut written, mut answered) = (0, false);
    let begin = std::time::Instant::now();
    wire.dial((THEIRS, 9).into());
    wire.run(|tcp| {
        written += tcp.write(&data[written..]);
        if written == data.len() && tcp.may_send() {
            tcp.close();
        }
        answered = tcp.read(<[u8]>::len) == Read::Data(1);
        answered
    });
    assert!(answered);
    begin.elapsed().as_secs_f64()
}

/// Go sends it to Go.
fn send_from_go_to_go(weather: Weather, seed: u64, bytes: usize) -> f64 {
    let mut ends = [Pipes::start(&["send", &bytes.to_string()]), Pipes::start(&[])];
    let begin = std::time::Instant::now();
    join(&mut ends, weather, seed, Pipes::has_succeeded);
    begin.elapsed().as_secs_f64()
}

#[test]
fn on_lossy_and_long_paths_we_are_about_as_fast_as_go() {
    println!("MiB/s to a Go node, from a Go node and from us");
    for (loss, ms, bytes, runs) in [
        (0, 75, 4 << 20, 2_u32),
        (10, 5, 2 << 20, 4),
        (10, 25, 1 << 20, 4),
        (20, 25, 1 << 19, 4),
    ] {
        let weather = Weather {
            delay: Duration::from_millis(ms),
            loss,
            late: 0,
        };
        let rate = |took: f64| f64::from(runs) * bytes as f64 / MIB / took;
        // A machine that is busy elsewhere delays both, but seldom alike: one fair attempt is enough.
        let fair = (0..3).any(|_| {
            // When the first packets are lost is luck, and decides much.
            let (go, ours) = thread::scope(|scope| {
                let [go, ours] = [send_from_go_to_go, send_to_go].map(|send| {
                    (1..=runs)
                        .map(|seed| scope.spawn(move || send(weather, seed.into(), bytes)))
                        .collect::<Vec<_>>()
                });
                let seconds = |runs: Vec<thread::ScopedJoinHandle<'_, f64>>| -> f64 {
                    runs.into_iter().map(|run| run.join().unwrap()).sum()
                };
                (rate(seconds(go)), rate(seconds(ours)))
            });
            println!("{} % loss, {:>3} ms: {go:>6.2} {ours:>6.2}", loss / 10, 2 * ms);
            ours > go / 3.0
        });
        assert!(
            fair,
            "{} % loss, {} ms: Go is three times as fast",
            loss / 10,
            2 * ms
        );
    }
}
