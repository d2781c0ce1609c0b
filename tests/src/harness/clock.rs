//! A clock that a test sets.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::{fs::File, io};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// The wall clock of a program that is started by [`Self::words`]; all other clocks are right.
///
/// A small library that is compiled here answers the program instead of the system (`LD_PRELOAD`), so it has to be linked
/// dynamically, as everything here is.
#[derive(Debug)]
pub struct Clock {
    dir: TempDir,
    wrong_by: File,
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Errors
    /// There is no C compiler `cc`, among others.
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vchat-clock").tempdir()?;
        let source = dir.path().join("clock.c");
        std::fs::write(&source, include_str!("clock.c"))?;
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(dir.path().join("clock.so")).arg(&source);
        let output = cc.output().context("cannot run cc")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        let wrong_by = File::create(dir.path().join("wrong-by"))?;
        let mut clock = Self { dir, wrong_by };
        clock.be_wrong_by(0)?;
        Ok(clock)
    }

    /// The words before those of the program.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let file = |name: &str| self.dir.path().join(name);
        vec!["env".into(), set("LD_PRELOAD", &file("clock.so")), set("VCHAT_TEST_CLOCK", &file("wrong-by"))]
    }

    /// From now on the clock is so many seconds ahead of the right time.
    pub fn be_wrong_by(&mut self, seconds: i64) -> io::Result<()> {
        self.wrong_by.seek(SeekFrom::Start(0))?;
        self.wrong_by.write_all(&seconds.to_ne_bytes())
    }
}
