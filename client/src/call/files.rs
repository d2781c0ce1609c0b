//! `--display y4m:DIR`: what would be shown, as files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use vchat_proto::id::ParticipantId;
use vchat_proto::units::MediaTime;

use super::peer::Remote;
use crate::video::y4m;

/// Writes, for each of the others, `NAME.y4m` with every picture as it would have been shown and `NAME.csv` with
/// `shown_us,capture_us,frame`.
pub(crate) struct Files {
    dir: PathBuf,
    fps: u32,
    names: BTreeSet<String>,
    open: BTreeMap<ParticipantId, (y4m::Writer, BufWriter<File>)>,
}

impl Files {
    pub(crate) fn create(dir: &Path, fps: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir: dir.into(), fps, names: BTreeSet::new(), open: BTreeMap::new() })
    }

    /// Writes the current picture of somebody.
    pub(crate) fn write(&mut self, remote: &Remote, shown: MediaTime) -> anyhow::Result<()> {
        let Some(decoded) = &remote.current else { return Ok(()) };
        if !self.open.contains_key(&remote.peer.id) {
            let name = self.file_name(remote.peer.name.as_str());
            let (width, height) = (decoded.picture.width(), decoded.picture.height());
            let video = y4m::Writer::create(self.dir.join(format!("{name}.y4m")), width, height, self.fps)?;
            let path = self.dir.join(format!("{name}.csv"));
            let mut csv = BufWriter::new(
                File::create(&path).with_context(|| format!("cannot create {}", path.display()))?,
            );
            writeln!(csv, "shown_us,capture_us,frame")?;
            self.open.insert(remote.peer.id, (video, csv));
        }
        if let Some((video, csv)) = self.open.get_mut(&remote.peer.id) {
            video.write(&decoded.picture)?;
            let captured = remote.captured().unwrap_or_default().as_micros();
            writeln!(csv, "{},{captured},{}", shown.as_micros(), decoded.frame.0)?;
        }
        Ok(())
    }

    /// Closes the files of those who left.
    pub(crate) fn keep(&mut self, present: impl Fn(ParticipantId) -> bool) -> anyhow::Result<()> {
        let gone: Vec<ParticipantId> = self.open.keys().copied().filter(|id| !present(*id)).collect();
        for (mut video, mut csv) in gone.into_iter().filter_map(|id| self.open.remove(&id)) {
            video.flush()?;
            csv.flush()?;
        }
        Ok(())
    }

    /// Hands everything to the system.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        for (video, csv) in self.open.values_mut() {
            video.flush()?;
            csv.flush()?;
        }
        Ok(())
    }

    /// A name that is safe as a file's and not taken yet.
    fn file_name(&mut self, name: &str) -> String {
        let safe: String =
            name.chars().map(|c| if c.is_alphanumeric() || "-_ ".contains(c) { c } else { '_' }).collect();
        let mut candidate = safe.clone();
        let mut n = 2;
        while !self.names.insert(candidate.clone()) {
            candidate = format!("{safe}-{n}");
            n += 1;
        }
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_safe_and_different_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut files = Files::create(dir.path(), 30).expect("a directory");
        assert_eq!(files.file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(files.file_name("ann"), "ann");
        assert_eq!(files.file_name("ann"), "ann-2");
        assert_eq!(files.file_name("日本"), "日本");
    }
}
