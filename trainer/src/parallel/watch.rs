//! Who is still there? NCCL waits for ever for a rank that is gone; the watch ends the wait.
//!
//! Every rank holds a line (TCP) to rank 0 and both say on it, again and again, that they live. A
//! line that breaks or falls silent before its goodbye is a rank that is gone. Rank 0 tells its
//! number to all others. No data of the training travel here.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clip::ops::Seat;

/// What whoever calls on rank 0 says first, before its number.
const HELLO: [u8; 8] = *b"roclip 1";
/// What rank 0 answers. Not the same, since a call on a port of one's own machine may find itself.
const WELCOME: [u8; 8] = *b"welcome.";
/// A word that is no rank's number: still here.
const ALIVE: u32 = u32::MAX;
/// Another: done, and leaving.
const GOODBYE: u32 = u32::MAX - 1;

/// Longest wait for one address of rank 0.
const CONNECTION: Duration = Duration::from_secs(5);

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

/// Why a rank cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// This rank came, and is no longer there
    Gone(u32),
    /// This one has not come in time
    Late(u32),
}

/// The other ranks are watched, and watch this one, until it leaves; one that is dropped before is
/// gone to them.
#[derive(Debug)]
pub(super) struct Watch {
    lines: Lines,
    beating: JoinHandle<()>,
    /// Ends the signs of life when it is dropped
    end: mpsc::Sender<()>,
}

/// Where signs of life are written to: the line of each other rank, or that to rank 0.
type Lines = Arc<Mutex<Vec<TcpStream>>>;

impl Watch {
    /// Rank 0 waits for the others at `host:port`. `lost` is called, once and on a thread of its own,
    /// with the first loss. Waits for nobody, and looks into the environment on this thread alone.
    ///
    /// # Errors
    /// One line, if the port is taken or nothing is known of the host.
    pub(super) fn start(
        seat: &Seat,
        (host, port): (&str, u16),
        pace: Pace,
        lost: impl Fn(Loss) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let (lines, known) = (Lines::default(), AtomicBool::new(false));
        let lost = Arc::new(move |loss| {
            if !known.swap(true, Ordering::Relaxed) {
                lost(loss);
            }
        });
        if seat.rank == 0 {
            let listener = listen(port).map_err(|error| {
                format!("but its first rank cannot wait for the others on port {port}: {error}")
            })?;
            let (lines, ranks) = (lines.clone(), seat.ranks);
            thread::spawn(move || receive(&listener, ranks, pace, &lines, &lost));
        } else {
            let addresses = (host, port)
                .to_socket_addrs()
                .map_err(|error| format!("but its first rank is not found at `{host}`: {error}"))?;
            let addresses: Vec<_> = addresses.collect();
            let (seat, lines) = (seat.clone(), lines.clone());
            thread::spawn(move || {
                if let Some(loss) = call(&seat, &addresses, pace, &lines) {
                    lost(loss);
                }
            });
        }
        let (end, ended) = mpsc::channel();
        let written = lines.clone();
        let beating = thread::spawn(move || beat(&written, pace.beat, &ended));
        Ok(Self { lines, beating, end })
    }

    /// Says goodbye: all has come to its end, and the others need not end with this rank.
    pub(super) fn leave(self) {
        drop(self.end);
        let _ = self.beating.join(); // nothing is said after the goodbye
        tell(&self.lines, GOODBYE);
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
    lost: &Arc<impl Fn(Loss) + Send + Sync + 'static>,
) {
    let until = Instant::now() + pace.start;
    let missing = Arc::new(Mutex::new((1..ranks as u32).collect::<Vec<_>>()));
    loop {
        let first = lock(&missing).first().copied();
        let Some(first) = first else { return };
        if Instant::now() > until {
            tell(lines, first);
            return lost(Loss::Late(first));
        }
        let Ok((line, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let (missing, lines, lost) = (missing.clone(), lines.clone(), lost.clone());
        thread::spawn(move || {
            if let Some(rank) = greeted(&line, &missing, pace)
                && let Some(rank) = kept(line, rank, ranks, pace, &lines)
            {
                tell(&lines, rank);
                lost(Loss::Gone(rank));
            }
        });
    }
}

/// Answers a caller that says a number that is missing. Any other is no rank of this run.
fn greeted(mut line: &TcpStream, missing: &Mutex<Vec<u32>>, pace: Pace) -> Option<u32> {
    line.set_nonblocking(false).ok()?; // as it is on some systems, after the listener
    line.set_read_timeout(Some(pace.silence)).ok()?;
    let rank = says(HELLO, line).then(|| word(line).ok())??;
    let mut missing = lock(missing);
    let at = missing.iter().position(|&other| other == rank)?;
    line.write_all(&WELCOME).ok()?;
    missing.remove(at);
    Some(rank)
}

/// Calls on rank 0 until it answers, and listens to it; what is lost in the end.
fn call(seat: &Seat, addresses: &[SocketAddr], pace: Pace, lines: &Lines) -> Option<Loss> {
    let until = Instant::now() + pace.start;
    let answered = |address| {
        let mut line = TcpStream::connect_timeout(address, CONNECTION.min(pace.start)).ok()?;
        line.write_all(&HELLO).ok()?;
        line.write_all(&(seat.rank as u32).to_le_bytes()).ok()?;
        line.set_read_timeout(Some(pace.silence)).ok()?;
        says(WELCOME, &line).then_some(line)
    };
    while Instant::now() < until {
        match addresses.iter().find_map(answered) {
            Some(line) => return kept(line, 0, seat.ranks, pace, lines).map(Loss::Gone),
            None => thread::sleep(Duration::from_millis(200)),
        }
    }
    Some(Loss::Late(0))
}

/// Holds the line to a rank; who is gone, by it: that rank, or whom it names; nobody after a
/// goodbye.
fn kept(line: TcpStream, rank: u32, ranks: usize, pace: Pace, lines: &Lines) -> Option<u32> {
    if add(lines, &line, pace).is_err() {
        return Some(rank);
    }
    loop {
        match word(&line) {
            Ok(ALIVE) => {}
            Ok(GOODBYE) => return None,
            Ok(other) if (other as usize) < ranks => return Some(other),
            _ => return Some(rank), // broken, silent for too long, or no rank at all
        }
    }
}

fn add(lines: &Lines, line: &TcpStream, pace: Pace) -> io::Result<()> {
    line.set_nodelay(true)?;
    line.set_read_timeout(Some(pace.silence))?;
    let writer = line.try_clone()?;
    writer.set_write_timeout(Some(pace.beat))?;
    lock(lines).push(writer);
    Ok(())
}

/// Whether this comes next on a line.
fn says(expected: [u8; 8], mut line: &TcpStream) -> bool {
    let mut said = [0; 8];
    line.read_exact(&mut said).is_ok() && said == expected
}

/// A word of a line.
fn word(mut line: &TcpStream) -> io::Result<u32> {
    let mut word = [0; 4];
    line.read_exact(&mut word)?;
    Ok(u32::from_le_bytes(word))
}

/// Says a word on all lines. Whether it arrives is the matter of who listens to them.
fn tell(lines: &Lines, word: u32) {
    for line in &mut *lock(lines) {
        let _ = line.write_all(&word.to_le_bytes());
    }
}

/// Signs of life, until the other end is dropped.
fn beat(lines: &Lines, beat: Duration, ended: &mpsc::Receiver<()>) {
    while ended.recv_timeout(beat) == Err(mpsc::RecvTimeoutError::Timeout) {
        tell(lines, ALIVE);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;

    const HOST: &str = "127.0.0.1";
    /// Rank and port of a process of its own, `1 29500`.
    const CHILD: &str = "ROCLIP_TEST_WATCH";
    /// What it says when it has its lines.
    const JOINED: &str = "has joined";
    /// Within which a test is told what it waits for.
    const SOON: Duration = Duration::from_secs(20);

    /// So that nothing is gone for its silence, or because it starts late.
    const PATIENT: Pace = Pace {
        beat: Duration::from_millis(50),
        silence: SOON.saturating_mul(9),
        start: SOON.saturating_mul(9),
    };

    /// A port that nothing listens on.
    fn port() -> u16 {
        let listener = TcpListener::bind((HOST, 0)).expect("a free port");
        listener.local_addr().expect("its address").port()
    }

    struct Rank {
        watch: Watch,
        told: mpsc::Receiver<Loss>,
    }

    impl Rank {
        /// One of three, in this process.
        fn new(rank: usize, port: u16, pace: Pace) -> Self {
            let (tell, told) = mpsc::channel();
            let seat = Seat { rank, ranks: 3, meeting: None };
            // Nobody listens any longer where a test is over.
            let tell = move |loss| tell.send(loss).unwrap_or_default();
            let watch = Watch::start(&seat, (HOST, port), pace, tell).expect("a watch");
            Self { watch, told }
        }

        fn wait_for_lines(&self, count: usize) {
            let until = Instant::now() + SOON;
            while lock(&self.watch.lines).len() < count {
                assert!(Instant::now() < until, "no line");
                thread::sleep(Duration::from_millis(10));
            }
        }

        fn is_told(&self, expected: Loss) {
            assert_eq!(self.told.recv_timeout(SOON), Ok(expected));
        }
    }

    /// Lines of a rank of three.
    fn lines(rank: usize) -> usize {
        if rank == 0 { 2 } else { 1 }
    }

    /// The test below as a process of its own, which is a rank then.
    fn process(rank: usize, port: u16) -> Child {
        let test = "parallel::watch::tests::all_are_told_who_was_killed";
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture"]).env(CHILD, format!("{rank} {port}"));
        command.stdout(Stdio::piped()).spawn().expect("a process")
    }

    /// Waits to be killed.
    fn be_a_rank(place: &str) {
        let (rank, port) = place.split_once(' ').expect("two numbers");
        let number = rank.parse().expect("a rank");
        let rank = Rank::new(number, port.parse().expect("a port"), PATIENT);
        rank.wait_for_lines(lines(number));
        terminal::println_result(JOINED).expect("somebody who reads");
        thread::sleep(9 * SOON);
    }

    #[test]
    fn all_are_told_who_was_killed() {
        if let Ok(place) = env::var(CHILD) {
            return be_a_rank(&place);
        }
        for killed in [0, 1] {
            let port = port();
            let mut child = process(killed, port);
            let others = [0, 1, 2].into_iter().filter(|&other| other != killed);
            let others = others.map(|other| (other, Rank::new(other, port, PATIENT)));
            let others: Vec<_> = others.collect();
            let said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            let joined = said.map_while(Result::ok).any(|line| line.contains(JOINED));
            assert!(joined, "rank {killed} ended");
            for (number, other) in &others {
                other.wait_for_lines(lines(*number));
                assert_eq!(other.told.try_recv(), Err(mpsc::TryRecvError::Empty));
            }
            child.kill().expect("a process that waits");
            child.wait().expect("a process that is over");
            others.iter().for_each(|(_, other)| other.is_told(Loss::Gone(killed as u32)));
        }
    }

    #[test]
    fn nobody_is_gone_who_said_goodbye() {
        let port = port();
        let ranks = [0, 1, 2].map(|number| Rank::new(number, port, PATIENT));
        for (number, rank) in ranks.iter().enumerate() {
            rank.wait_for_lines(lines(number));
        }
        let [first, second, third] = ranks;
        let told = [second, first, third].map(|Rank { watch, told }| {
            watch.leave();
            told
        });
        // All listen until they have heard the others' goodbyes, and then nobody can be told.
        for told in told {
            assert_eq!(told.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
        }
    }

    #[test]
    fn who_is_silent_is_gone() {
        let hasty = Pace { silence: Duration::from_secs(2), ..PATIENT };
        let say = |mut line: &TcpStream, words: &[u8]| line.write_all(words).expect("a line");
        // Rank 0 hears a stranger, one rank, and another that says its number and no more.
        let place = port();
        let (first, second) = (Rank::new(0, place, hasty), Rank::new(1, place, hasty));
        let hellos: [&[u8]; 2] = [b"GET / HTTP/1.1\r\n\r\n", b"roclip 1\x02\0\0\0"];
        let open = hellos.map(|hello| {
            let line = TcpStream::connect((HOST, place)).expect("a watch that waits");
            say(&line, hello);
            line
        });
        first.is_told(Loss::Gone(2));
        second.is_told(Loss::Gone(2));
        drop(open);
        // Rank 0 answers and says no more.
        let listener = TcpListener::bind((HOST, 0)).expect("a free port");
        let third = Rank::new(2, listener.local_addr().expect("its address").port(), hasty);
        let (line, _) = listener.accept().expect("a rank that calls");
        say(&line, &WELCOME);
        third.is_told(Loss::Gone(0));
    }

    #[test]
    fn who_never_comes_is_gone() {
        let hurried = Pace { start: Duration::from_secs(4), ..PATIENT };
        Rank::new(1, port(), hurried).is_told(Loss::Late(0));
        let place = port();
        let (first, third) = (Rank::new(0, place, hurried), Rank::new(2, place, hurried));
        first.is_told(Loss::Late(1));
        third.is_told(Loss::Gone(1)); // as rank 0 says
    }

    #[test]
    fn a_watch_that_cannot_begin_says_where() {
        let start = |rank, (host, port)| {
            let seat = Seat { rank, ranks: 2, meeting: None };
            let started = Watch::start(&seat, (host, port), PATIENT, |_| {}).map(drop);
            started.expect_err("a watch that cannot begin")
        };
        let taken = listen(0).expect("a free port");
        let port = taken.local_addr().expect("its address").port();
        let problem = start(0, (HOST, port));
        assert!(problem.contains(&format!("on port {port}: ")), "{problem}");
        let problem = start(1, ("no host", port));
        assert!(problem.contains("not found at `no host`: "), "{problem}");
    }

    #[test]
    fn all_know_within_half_a_minute() {
        let Pace { beat, silence, .. } = Pace::USUAL;
        assert!(2 * beat < silence && silence + beat < Duration::from_secs(30));
    }
}
