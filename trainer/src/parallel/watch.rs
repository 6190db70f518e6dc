//! Who is still there? NCCL waits for ever for a rank that is gone; the watch ends the wait.
//!
//! Every rank holds a line (TCP) to rank 0 and both say on it, again and again, that they live. A
//! line that breaks or falls silent before its goodbye is a rank that is gone. Rank 0 tells its
//! number to all others. No data of the training travel here.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    ops::DerefMut,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clip::ops::Seat;

/// What whoever calls on rank 0 says first, before its number.
const HELLO: [u8; 8] = *b"roclip 1";
/// A word that is no rank's number: still here.
const ALIVE: u32 = u32::MAX;
/// Another: done, and leaving.
const GOODBYE: u32 = u32::MAX - 1;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From one sign of life to the next
    pub(super) beat: Duration,
    /// Silence after which a rank is gone; after it, a second passes at most until all know
    pub(super) silence: Duration,
    /// Until all ranks have come
    pub(super) start: Duration,
}

impl Pace {
    /// A rank whose machine lost its power is found within 20 s, one that was killed at once.
    pub(super) const USUAL: Self = Self {
        beat: Duration::from_secs(5),
        silence: Duration::from_secs(20),
        start: Duration::from_secs(300),
    };
}

/// The other ranks are watched, and watch this one, until it leaves; one that is dropped before is
/// gone to them.
#[derive(Debug)]
pub(super) struct Watch {
    /// Takes the goodbye
    end: mpsc::Sender<()>,
    beating: JoinHandle<()>,
}

/// Where signs of life are written to: the line of each other rank, or that to rank 0.
type Lines = Arc<Mutex<Vec<(u32, TcpStream)>>>;

impl Watch {
    /// Rank 0 waits for the others at `host:port`. `gone` is called, once and on a thread of its own,
    /// with the number of the first rank that is, or that has not come in time. Waits for nobody, and
    /// looks into the environment on this thread alone.
    ///
    /// # Errors
    /// One line, if the port is taken or nothing is known of the host.
    pub(super) fn start(
        seat: &Seat,
        (host, port): (&str, u16),
        pace: Pace,
        gone: impl Fn(usize) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let (lines, known) = (Lines::default(), AtomicBool::new(false));
        let gone = Arc::new(move |rank: u32| {
            if !known.swap(true, Ordering::Relaxed) {
                gone(rank as usize);
            }
        });
        if seat.rank == 0 {
            let listener = listen(port).map_err(|error| {
                format!("but its first rank cannot wait for the others on port {port}: {error}")
            })?;
            let (lines, ranks) = (lines.clone(), seat.ranks);
            thread::spawn(move || receive(&listener, ranks, pace, &lines, &gone));
        } else {
            let addresses = (host, port)
                .to_socket_addrs()
                .map_err(|error| format!("but its first rank is not found at `{host}`: {error}"))?;
            let (addresses, lines, rank) = (addresses.collect(), lines.clone(), seat.rank as u32);
            thread::spawn(move || {
                if let Some(rank) = call(addresses, rank, pace, &lines) {
                    gone(rank);
                }
            });
        }
        let (end, ended) = mpsc::channel();
        let beating = thread::spawn(move || beat(&lines, pace.beat, &ended));
        Ok(Self { end, beating })
    }

    /// Says goodbye: all has come to its end, and the others need not end with this rank.
    pub(super) fn leave(self) {
        if self.end.send(()).is_ok() {
            let _ = self.beating.join(); // who did not hear it will say so
        }
    }
}

/// At all addresses of this machine.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    listener.set_nonblocking(true)?; // whoever never comes is not waited for for ever
    Ok(listener)
}

/// Takes the calls of all other ranks, and listens to each on a thread of its own.
fn receive(
    listener: &TcpListener,
    ranks: usize,
    pace: Pace,
    lines: &Lines,
    gone: &Arc<impl Fn(u32) + Send + Sync + 'static>,
) {
    let until = Instant::now() + pace.start;
    let mut missing: Vec<u32> = (1..ranks as u32).collect();
    while !missing.is_empty() {
        if Instant::now() > until {
            return lose(missing[0], lines, &**gone);
        }
        let Ok((line, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        // Who says something else, or the number of a rank that has come, is no rank of this run.
        let Some(rank) = greeted(&line, pace).filter(|rank| missing.contains(rank)) else {
            continue;
        };
        if add(lines, rank, &line, pace).is_err() {
            return lose(rank, lines, &**gone);
        }
        missing.retain(|&other| other != rank);
        let (lines, gone) = (lines.clone(), gone.clone());
        thread::spawn(move || {
            if let Some(rank) = listen_to(line, rank) {
                lose(rank, &lines, &*gone);
            }
        });
    }
}

/// The number that a caller says, if it is a rank.
fn greeted(mut line: &TcpStream, pace: Pace) -> Option<u32> {
    let mut hello = [0; HELLO.len()];
    line.set_nonblocking(false).ok()?; // as it is on some systems, after the listener
    line.set_read_timeout(Some(pace.beat)).ok()?;
    line.read_exact(&mut hello).ok()?;
    (hello == HELLO).then(|| hear(line).ok())?
}

/// Calls on rank 0 until it waits there, and listens to it; who is gone in the end.
fn call(addresses: Vec<SocketAddr>, own: u32, pace: Pace, lines: &Lines) -> Option<u32> {
    let until = Instant::now() + pace.start;
    let connected = || {
        let mut line = TcpStream::connect(&addresses[..])?;
        line.write_all(&HELLO)?;
        line.write_all(&own.to_le_bytes())?;
        add(lines, 0, &line, pace)?;
        Ok::<_, io::Error>(line)
    };
    while Instant::now() < until {
        match connected() {
            Ok(line) => return listen_to(line, 0),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
    Some(0)
}

fn add(lines: &Lines, rank: u32, line: &TcpStream, pace: Pace) -> io::Result<()> {
    line.set_nodelay(true)?;
    line.set_read_timeout(Some(pace.silence))?;
    let writer = line.try_clone()?;
    writer.set_write_timeout(Some(pace.beat))?;
    lock(lines).push((rank, writer));
    Ok(())
}

/// Who is gone, by the line of `rank`: that rank, or whom it names; nobody after a goodbye.
fn listen_to(line: TcpStream, rank: u32) -> Option<u32> {
    loop {
        match hear(&line) {
            Ok(ALIVE) => {}
            Ok(GOODBYE) => return None,
            Ok(other) => return Some(other),
            Err(_) => return Some(rank), // broken, or silent for too long
        }
    }
}

/// A word of a line.
fn hear(mut line: &TcpStream) -> io::Result<u32> {
    let mut word = [0; 4];
    line.read_exact(&mut word)?;
    Ok(u32::from_le_bytes(word))
}

/// Tells all others that a rank is gone.
fn lose(rank: u32, lines: &Lines, gone: &impl Fn(u32)) {
    tell(lines, rank);
    gone(rank);
}

/// Says a word on all lines. Whether it arrives is the matter of who listens to them.
fn tell(lines: &Lines, word: u32) {
    for (_, line) in &mut *lock(lines) {
        let _ = line.write_all(&word.to_le_bytes());
    }
}

/// Signs of life, until this rank leaves or its watch is dropped.
fn beat(lines: &Lines, beat: Duration, ended: &mpsc::Receiver<()>) {
    loop {
        match ended.recv_timeout(beat) {
            Err(mpsc::RecvTimeoutError::Timeout) => tell(lines, ALIVE),
            Ok(()) => return tell(lines, GOODBYE),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn lock(lines: &Lines) -> impl DerefMut<Target = Vec<(u32, TcpStream)>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{Child, Command},
    };

    use super::*;

    const HOST: &str = "127.0.0.1";
    /// Rank and port of a process of its own, `1 29500`.
    const CHILD: &str = "ROCLIP_TEST_WATCH";
    const SOON: Duration = Duration::from_secs(10);

    /// Silence is noticed sooner than a test ends.
    fn pace() -> Pace {
        let [beat, silence] = [50, 1_000].map(Duration::from_millis);
        Pace { beat, silence, start: SOON }
    }

    /// A port that nothing listens on.
    fn port() -> u16 {
        let listener = TcpListener::bind((HOST, 0)).expect("a free port");
        listener.local_addr().expect("its address").port()
    }

    /// A rank of three in this process, and whom it is told of.
    fn rank(rank: usize, port: u16, pace: Pace) -> (Watch, mpsc::Receiver<usize>) {
        let (told, gone) = mpsc::channel();
        let seat = Seat { rank, ranks: 3, meeting: None };
        let tell = move |rank| told.send(rank).expect("a test that listens");
        (Watch::start(&seat, (HOST, port), pace, tell).expect("a watch"), gone)
    }

    fn process(rank: usize, port: u16) -> Child {
        let test = "parallel::watch::tests::a_process_of_its_own";
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["--exact", test, "--ignored"]).env(CHILD, format!("{rank} {port}"));
        command.spawn().expect("a process")
    }

    #[test]
    #[ignore = "what other tests start and kill"]
    fn a_process_of_its_own() {
        let place = env::var(CHILD).expect("a rank and a port");
        let (number, port) = place.split_once(' ').expect("two numbers");
        let number = number.parse().expect("a rank");
        let (_watch, gone) = rank(number, port.parse().expect("a port"), pace());
        let _ = gone.recv_timeout(6 * SOON);
    }

    #[test]
    fn all_are_told_who_was_killed() {
        for killed in [0, 1] {
            let port = port();
            let mut child = process(killed, port);
            let others = [0, 1, 2].into_iter().filter(|&other| other != killed);
            let others: Vec<_> = others.map(|other| rank(other, port, pace())).collect();
            thread::sleep(3 * pace().silence); // all hear of each other
            for (_, gone) in &others {
                assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
            }
            child.kill().expect("a process that waits");
            child.wait().expect("a process that is over");
            for (_, gone) in &others {
                assert_eq!(gone.recv_timeout(SOON), Ok(killed));
            }
        }
    }

    #[test]
    fn nobody_is_gone_who_said_goodbye() {
        let port = port();
        let ranks = [0, 1, 2].map(|number| rank(number, port, pace()));
        thread::sleep(10 * pace().beat);
        let [first, second, third] = ranks;
        for (watch, gone) in [second, first, third] {
            watch.leave();
            // The line of who listened no more would have broken.
            assert!(gone.recv_timeout(2 * pace().silence).is_err());
        }
    }

    #[test]
    fn who_is_silent_or_never_comes_is_gone() {
        let place = port();
        let (_first, gone) = rank(0, place, pace());
        let mut lines = Vec::new();
        // A stranger, and two ranks that say their numbers and no more.
        for hello in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"roclip 1\x01\0\0\0", b"roclip 1\x02\0\0\0"]
        {
            let mut line = TcpStream::connect((HOST, place)).expect("a watch that waits");
            line.write_all(hello).expect("a line");
            lines.push(line);
        }
        let lost = gone.recv_timeout(SOON).expect("the silent ones");
        assert!([1, 2].contains(&lost), "{lost}");

        let hurried = Pace { start: pace().silence, ..pace() };
        let (_second, told) = rank(1, port(), hurried);
        assert_eq!(told.recv_timeout(SOON), Ok(0));

        let place = port();
        let (_first, gone) = rank(0, place, hurried);
        let (_third, told) = rank(2, place, pace());
        assert_eq!(gone.recv_timeout(SOON), Ok(1));
        assert_eq!(told.recv_timeout(SOON), Ok(1));
    }

    #[test]
    fn a_watch_that_cannot_begin_says_where() {
        let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = taken.local_addr().expect("its address").port();
        let seat = Seat { rank: 0, ranks: 2, meeting: None };
        let problem = Watch::start(&seat, (HOST, port), pace(), |_| {}).map(drop);
        let problem = problem.expect_err("a port that is taken");
        assert!(problem.contains(&format!("on port {port}: ")), "{problem}");
        let seat = Seat { rank: 1, ranks: 2, meeting: None };
        let problem = Watch::start(&seat, ("no host", port), pace(), |_| {}).map(drop);
        let problem = problem.expect_err("no name of a host");
        assert!(problem.contains("not found at `no host`: "), "{problem}");
    }

    #[test]
    fn all_know_within_half_a_minute() {
        let Pace { beat, silence, .. } = Pace::USUAL;
        assert!(2 * beat < silence && silence + beat < Duration::from_secs(30));
    }
}
