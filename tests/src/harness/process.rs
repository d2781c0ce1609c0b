//! A program that runs.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running program whose output is read line by line; killed and reaped when dropped.
///
/// Output is kept, so waiting for a line that is there already succeeds at once. At most [`MAX_LINES`] lines of each
/// stream are kept, without the oldest.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Log>,
    stderr: Arc<Log>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a program with all three standard streams on pipes.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        Self::spawn_with_stdin(command, Stdio::piped())
    }

    /// The same with another stdin.
    pub fn spawn_with_stdin(command: &mut Command, stdin: Stdio) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let name = program.to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = Log::read(child.stdout.take().context("stdout is a pipe")?);
        let stderr = Log::read(child.stderr.take().context("stderr is a pipe")?);
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, stdout, stderr, status: None })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `find` takes something from a line of stdout, for at most [`DEADLINE`].
    ///
    /// Starts with the lines already there, from the last [`Self::forget_lines`]. The error tells what was waited
    /// for, whether the program has ended, and the last lines of its output.
    pub fn wait_for<T>(&mut self, what: &str, find: impl FnMut(&str) -> Option<T>) -> anyhow::Result<T> {
        let found = self.stdout.wait_for(find);
        found.with_context(|| self.failure(what))
    }

    /// Like [`Self::wait_for`] for a whole line of stderr.
    pub fn wait_for_stderr(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> anyhow::Result<String> {
        let found = self.stderr.wait_for(|line| is_it(line).then(|| line.to_owned()));
        found.with_context(|| self.failure(what))
    }

    /// Waits for a line `listening on ADDR:PORT` and returns the address.
    pub fn wait_for_address(&mut self) -> anyhow::Result<std::net::SocketAddr> {
        self.wait_for("the address it listens on", |line| {
            line.strip_prefix("listening on ")?.trim().parse().ok()
        })
    }

    /// Waits for an event (a line of JSON on stdout) that `is_it` accepts.
    pub fn wait_for_event(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.wait_for(what, |line| serde_json::from_str(line).ok().filter(&mut is_it))
    }

    /// Waits for an event whose field `event` has this name.
    pub fn wait_for_event_named(&mut self, name: &str) -> anyhow::Result<Value> {
        self.wait_for_event(&format!("the event {name:?}"), |event| event["event"] == name)
    }

    /// All events so far, since the last [`Self::forget_lines`].
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.timed_events().into_iter().map(|(_, event)| event).collect()
    }

    /// The same with the time at which each was read here.
    #[must_use]
    pub fn timed_events(&self) -> Vec<(Instant, Value)> {
        let lines = self.stdout.lock().lines.clone();
        lines.iter().filter_map(|(at, line)| Some((*at, serde_json::from_str(line).ok()?))).collect()
    }

    /// All lines of stdout so far, since the last [`Self::forget_lines`].
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.stdout.lock().lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// All lines of stderr so far, since the last [`Self::forget_lines`].
    #[must_use]
    pub fn stderr_lines(&self) -> Vec<String> {
        self.stderr.lock().lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// The same, each line once: as if it had not been there afterwards.
    pub fn take_stderr_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.stderr.lock().lines).into_iter().map(|(_, line)| line).collect()
    }

    /// From now on, only output to come counts.
    pub fn forget_lines(&mut self) {
        self.stdout.lock().lines.clear();
        self.stderr.lock().lines.clear();
    }

    /// Writes a line to the program's stdin.
    pub fn send_line(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .with_context(|| format!("cannot write to {}", self.name))
    }

    /// Closes the program's stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if self.status.is_some() {
            bail!("{} has ended", self.name);
        }
        // Still a child that nobody has reaped: the id cannot belong to another process.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Asks the program to end with SIGTERM and waits until it has.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait()
    }

    /// Ends the program at once, as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.signal(Signal::KILL)?;
        }
        self.wait()
    }

    /// Whether the program has ended by now, and how.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits until the program ends by itself and all its output is read, for at most [`DEADLINE`].
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.wait_within(DEADLINE)
    }

    /// Like [`Self::wait`] for a program that takes longer.
    pub fn wait_within(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        // Its streams end when it does; so this needs no timer to see the end.
        let ended = self.stdout.wait_for_end(deadline) && self.stderr.wait_for_end(deadline);
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if !ended || Instant::now() > deadline {
                bail!(self.failure("its end"));
            }
            // Between closing its streams and being gone; a matter of microseconds.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn failure(&mut self, what: &str) -> String {
        let state = match self.try_wait() {
            Ok(Some(status)) => format!("it has ended ({status})"),
            _ => "it is running".into(),
        };
        let tail = |log: &Log| {
            let log = log.lock();
            let skipped = log.lines.len().saturating_sub(TAIL_LINES);
            log.lines.iter().skip(skipped).map(|(_, line)| format!("\n    {line}")).collect::<String>()
        };
        let (stdout, stderr) = (tail(&self.stdout), tail(&self.stderr));
        format!("waited for {what} of {}; {state}\n  stdout:{stdout}\n  stderr:{stderr}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, filled by a thread that reads it to its end.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: VecDeque<(Instant, String)>,
    /// How many lines there were ever, to know the new ones.
    total: u64,
    ended: bool,
}

impl Log {
    fn read(stream: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let filled = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
                filled.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            filled.lock().ended = true;
            filled.changed.notify_all();
        });
        log
    }

    fn push(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() == MAX_LINES {
            state.lines.pop_front();
        }
        state.lines.push_back((Instant::now(), line));
        state.total += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// `None` at the deadline, and when the stream has ended without it.
    fn wait_for<T>(&self, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.lock();
        let mut tried = state.total - state.lines.len() as u64;
        loop {
            let new = usize::try_from(state.total - tried).unwrap_or(usize::MAX).min(state.lines.len());
            let mut fresh = state.lines.iter().skip(state.lines.len() - new);
            if let Some(found) = fresh.find_map(|(_, line)| find(line)) {
                return Some(found);
            }
            tried = state.total;
            if state.ended {
                return None;
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_for_end(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, left, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bounds a failure. Far beyond what anything takes on a slow machine, so that it never makes a test fail.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Lines kept of each stream: an hour of events at 30 a second.
const MAX_LINES: usize = 1 << 17;

/// Lines of each stream in an error.
const TAIL_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::spawn(Command::new("sh").args(["-c", script])).expect("a shell")
    }

    #[test]
    fn lines_and_events_are_found_as_they_come_and_afterwards() {
        let mut process = shell(
            r#"echo listening on 127.0.0.1:4433; echo '{"event":"joined","participant":7}'; read x; echo "got $x"; read y"#,
        );
        assert_eq!(process.wait_for_event_named("joined").expect("joined")["participant"], 7);
        assert_eq!(process.wait_for_address().expect("an earlier line").port(), 4433);
        process.send_line("hello").expect("sent");
        process.wait_for("its answer", |line| (line == "got hello").then_some(())).expect("answered");
        assert_eq!((process.events().len(), process.lines().len()), (1, 3));
        assert!(process.timed_events()[0].0 <= Instant::now());
        process.forget_lines();
        assert!(process.lines().is_empty());
        process.close_stdin();
        assert!(!process.wait().expect("ends").success(), "read fails at the end of its input");
    }

    #[test]
    fn a_program_that_ends_early_says_so_with_its_output() {
        let mut process = shell("echo first; echo broken >&2; exit 3");
        let error = process.wait_for("the impossible", |_| None::<()>).expect_err("ended").to_string();
        assert!(error.contains("the impossible") && error.contains("first"), "{error}");
        assert_eq!(process.wait().expect("ended").code(), Some(3));
        assert_eq!(process.stderr_lines(), ["broken"]);
    }

    #[test]
    fn a_program_is_terminated_or_killed_and_reaped() {
        let mut process =
            shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do read x || sleep 0.01; done");
        process.wait_for("ready", |line| (line == "ready").then_some(())).expect("ready");
        assert_eq!(process.terminate().expect("ends").code(), Some(5));
        assert_eq!(process.lines(), ["ready", "bye"]);
        process.signal(Signal::TERM).expect_err("nobody is there");

        let mut process = shell("trap '' TERM; echo ready; read x");
        process.wait_for("ready", |line| (line == "ready").then_some(())).expect("ready");
        assert!(process.kill().expect("ends").code().is_none());

        let process = shell("read x");
        let path = format!("/proc/{}", process.id());
        assert!(std::fs::exists(&path).expect("readable"));
        drop(process);
        assert!(!std::fs::exists(&path).expect("readable"), "reaped");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = Process::spawn(&mut Command::new("/nonexistent/vchat")).expect_err("no such file");
        assert!(error.to_string().contains("/nonexistent/vchat"), "{error}");
        let error = crate::harness::bin("vchat-nonexistent").expect_err("no such program").to_string();
        assert!(error.contains("vchat-nonexistent") && error.contains("make build"), "{error}");
    }
}
