//! A log file that is put aside when it is large or old enough: `tidegate.log`, `tidegate.log.1`, `tidegate.log.2` …
//!
//! The names are shifted from the last free number on, each by a rename, which replaces the oldest file. A process that ends
//! between two of them leaves a number free, which the next turn fills; no file is lost, and none is there twice.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::config::Rotate;

/// Access lines have the addresses of clients in them: not for everybody on the machine.
const MODE: u32 = 0o640;
/// When a file that could not be put aside is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Where whole lines are appended.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    /// None: standard output, which is what it is.
    named: Option<Named>,
}

#[derive(Debug)]
struct Named {
    path: PathBuf,
    /// What is no regular file (a pipe, a device) is neither put aside nor cut.
    regular: bool,
    bytes: u64,
    begun: SystemTime,
    limit: u64,
    age: Duration,
    count: usize,
    /// It could not be put aside, and is not tried again before this.
    not_before: Option<Instant>,
}

impl LogFile {
    /// The standard output of this process, without a buffer of its own.
    pub(super) fn standard_output() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { file, named: None })
    }

    /// The file at `path`, whose lines stay.
    pub(super) fn open(path: &Path, rotate: &Rotate) -> io::Result<Self> {
        let (file, mut named) = Named::open(path)?;
        named.limit = rotate.size.bytes() as u64;
        named.age = rotate.age;
        named.count = rotate.count;
        Ok(Self {
            file,
            named: Some(named),
        })
    }

    /// How it is called in a complaint.
    pub(super) fn name(&self) -> String {
        self.named.as_ref().map_or_else(
            || "the standard output".to_owned(),
            |named| named.path.display().to_string(),
        )
    }

    /// Opens it by its name again; without success everything stays as it is.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(named) = &mut self.named {
            let (file, fresh) = Named::open(&named.path)?;
            self.file = file;
            *named = Named {
                limit: named.limit,
                age: named.age,
                count: named.count,
                ..fresh
            };
        }
        Ok(())
    }

    /// How long until it is too old.
    pub(super) fn due(&self) -> Option<Duration> {
        let named = self.named.as_ref()?;
        if named.age.is_zero() || !named.regular {
            return None;
        }
        let left = named.age.saturating_sub(named.old());
        let wait = named.not_before.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        });
        Some(left.max(wait))
    }

    /// Puts it aside if it is too old, and says what kept it from that.
    pub(super) fn turn_by_age(&mut self) -> io::Result<()> {
        match &mut self.named {
            Some(named) if named.is_due() => {
                if named.bytes == 0 {
                    // An empty file is as good as a new one.
                    named.begun = SystemTime::now();
                    return Ok(());
                }
                self.turn()
            }
            _ => Ok(()),
        }
    }

    /// Appends whole lines. Returns how many bytes are done with, also where it fails, and then a line is whole or not there.
    pub(super) fn write(
        &mut self,
        lines: &[u8],
        complain: &mut dyn FnMut(String),
    ) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < lines.len() {
            let piece = self.piece(&lines[done..], complain);
            let (bytes, result) = self.append(piece);
            done += bytes;
            if result.is_err() {
                return (done, result);
            }
        }
        (done, Ok(()))
    }

    /// The lines that fit in, after it was put aside where not even one does.
    fn piece<'a>(&mut self, lines: &'a [u8], complain: &mut dyn FnMut(String)) -> &'a [u8] {
        let Some(named) = self
            .named
            .as_ref()
            .filter(|named| named.limit > 0 && named.regular && named.may_turn())
        else {
            return lines;
        };
        let first = end_of_line(lines, 0);
        let mut room = named.limit.saturating_sub(named.bytes);
        if (first as u64) > room && named.bytes > 0 {
            if let Err(error) = self.turn() {
                complain(format!("cannot put {} aside: {error}", self.name()));
                return lines;
            }
            room = self
                .named
                .as_ref()
                .map_or(u64::MAX, |named| named.limit.saturating_sub(named.bytes));
        }
        let mut end = first;
        let fits = lines.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if fits > first {
            end = lines[..fits]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(first, |at| at + 1);
        }
        &lines[..end]
    }

    fn append(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        let result = loop {
            if done == lines.len() {
                break Ok(());
            }
            match self.file.write(&lines[done..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if let Some(named) = &mut self.named {
            if result.is_err() && named.regular {
                // The disk was full in the middle of a line: it is taken back, so that the file can be put aside or read.
                let whole = lines[..done]
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |at| at + 1);
                let cut = self.file.metadata().and_then(|metadata| {
                    self.file
                        .set_len(metadata.len().saturating_sub((done - whole) as u64))
                });
                if cut.is_ok() {
                    done = whole;
                }
            }
            named.bytes += done as u64;
        }
        (done, result)
    }

    /// Puts the file aside under its first number and begins a new one.
    fn turn(&mut self) -> io::Result<()> {
        let Some(named) = &mut self.named else {
            return Ok(());
        };
        let turned = named.turn(&self.file).and_then(|()| self.reopen());
        if turned.is_err()
            && let Some(named) = &mut self.named
        {
            named.not_before = Some(Instant::now() + RETRY);
        }
        turned
    }
}

/// Where the line that holds the byte at `from` ends.
fn end_of_line(lines: &[u8], from: usize) -> usize {
    memchr::memchr(b'\n', &lines[from..]).map_or(lines.len(), |at| from + at + 1)
}

impl Named {
    fn open(path: &Path) -> io::Result<(File, Self)> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(MODE);
        let mut file = options.open(path)?;
        let metadata = file.metadata()?;
        let regular = metadata.is_file();
        let mut bytes = metadata.len();
        if regular && bytes > 0 {
            // A process that was killed in the middle of a line: the next one begins on its own.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        let begun = metadata.created().or_else(|_| metadata.modified());
        let named = Self {
            path: path.to_owned(),
            regular,
            bytes,
            begun: begun.unwrap_or_else(|_| SystemTime::now()),
            limit: 0,
            age: Duration::ZERO,
            count: 0,
            not_before: None,
        };
        Ok((file, named))
    }

    fn old(&self) -> Duration {
        // A clock that was set back makes it young again.
        SystemTime::now()
            .duration_since(self.begun)
            .unwrap_or_default()
    }

    fn may_turn(&self) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    fn is_due(&self) -> bool {
        self.regular && !self.age.is_zero() && self.old() >= self.age && self.may_turn()
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        name.into()
    }

    /// Moves the names; `file` stays open, under its new one.
    fn turn(&self, file: &File) -> io::Result<()> {
        let ours = file.metadata()?;
        match fs::metadata(&self.path) {
            // Somebody has put it aside and not told us: there is nothing of ours under this name.
            Ok(other) if (other.dev(), other.ino()) != (ours.dev(), ours.ino()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => {}
        }
        if self.count == 0 {
            return fs::remove_file(&self.path);
        }
        let free = (1..self.count).find(|number| !self.numbered(*number).exists());
        for number in (1..free.unwrap_or(self.count)).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename(&self.path, &self.numbered(1))?;
        // There were more of them once.
        let mut number = self.count + 1;
        while fs::remove_file(self.numbered(number)).is_ok() {
            number += 1;
        }
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn rotate(size: usize, count: usize) -> Rotate {
        serde_json::from_value(serde_json::json!({ "size": size, "age": "0s", "count": count }))
            .expect("settings")
    }

    fn write(file: &mut LogFile, lines: &str) {
        let (bytes, result) = file.write(lines.as_bytes(), &mut |complaint| panic!("{complaint}"));
        result.expect("written");
        assert_eq!(bytes, lines.len());
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).expect(name)
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        let mut file = LogFile::open(&path, &rotate(8, 2)).expect("opened");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777 & !MODE, 0, "{mode:o}");
        // A batch is cut between lines; a line that is too long for any file has one of its own.
        write(&mut file, "1\n2\n3\n4\n5\n6\na long line\n7\n");
        assert_eq!(names(folder.path()), ["t.log", "t.log.1", "t.log.2"]);
        assert_eq!(read(folder.path(), "t.log"), "7\n");
        assert_eq!(read(folder.path(), "t.log.1"), "a long line\n");
        assert_eq!(read(folder.path(), "t.log.2"), "5\n6\n");
    }

    #[test]
    fn a_number_that_a_crash_left_free_is_filled() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        for (name, text) in [
            ("t.log", "new\n"),
            ("t.log.1", "1\n"),
            ("t.log.3", "3\n"),
            ("t.log.6", "6\n"),
            ("t.log.7", "7\n"),
        ] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let mut file = LogFile::open(&path, &rotate(5, 5)).expect("opened");
        write(&mut file, "newer\n");
        assert_eq!(
            names(folder.path()),
            ["t.log", "t.log.1", "t.log.2", "t.log.3"]
        );
        assert_eq!(read(folder.path(), "t.log.1"), "new\n");
        assert_eq!(read(folder.path(), "t.log.2"), "1\n");
        assert_eq!(read(folder.path(), "t.log.3"), "3\n");
    }

    #[test]
    fn half_a_line_that_a_crash_left_stays_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        fs::write(&path, "whole\nhal").expect("written");
        let mut file = LogFile::open(&path, &rotate(0, 0)).expect("opened");
        write(&mut file, "next\n");
        assert_eq!(read(folder.path(), "t.log"), "whole\nhal\nnext\n");
    }

    #[test]
    fn an_old_file_is_put_aside_and_an_empty_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        let mut file = LogFile::open(&path, &rotate(0, 3)).expect("opened");
        let age = |file: &mut LogFile| {
            let named = file.named.as_mut().expect("a name");
            named.age = Duration::from_hours(1);
            named.begun = SystemTime::now() - Duration::from_mins(61);
        };
        age(&mut file);
        assert_eq!(file.due(), Some(Duration::ZERO));
        file.turn_by_age().expect("turned");
        assert_eq!(names(folder.path()), ["t.log"]);
        write(&mut file, "old\n");
        file.turn_by_age().expect("turned");
        assert_eq!(
            names(folder.path()),
            ["t.log"],
            "it began anew when it was empty"
        );
        age(&mut file);
        file.turn_by_age().expect("turned");
        assert_eq!(names(folder.path()), ["t.log", "t.log.1"]);
        assert!(file.due().is_some_and(|due| due > Duration::from_mins(50)));
    }

    #[test]
    fn a_file_that_others_put_aside_without_a_word_is_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        let mut file = LogFile::open(&path, &rotate(4, 3)).expect("opened");
        write(&mut file, "one\n");
        fs::rename(&path, folder.path().join("elsewhere")).expect("renamed");
        fs::write(&path, "not ours\n").expect("written");
        write(&mut file, "two\n");
        assert_eq!(names(folder.path()), ["elsewhere", "t.log"]);
        assert_eq!(read(folder.path(), "t.log"), "not ours\ntwo\n");
    }

    #[test]
    fn what_cannot_be_put_aside_is_written_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.log");
        let mut file = LogFile::open(&path, &rotate(4, 1)).expect("opened");
        // A folder in its place cannot be replaced by a file, not even by root.
        fs::create_dir(folder.path().join("t.log.1")).expect("a folder");
        let mut complaints = Vec::new();
        for line in ["one\n", "two\n", "six\n"] {
            let (_, result) =
                file.write(line.as_bytes(), &mut |complaint| complaints.push(complaint));
            result.expect("written");
        }
        assert_eq!(read(folder.path(), "t.log"), "one\ntwo\nsix\n");
        assert_eq!(complaints.len(), 1, "{complaints:?}");
    }

    #[test]
    fn a_full_disk_splits_no_line() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let mut file = LogFile::open(full, &rotate(10, 1)).expect("opened");
        let (bytes, result) = file.write(b"one\ntwo\n", &mut |complaint| panic!("{complaint}"));
        assert_eq!(bytes, 0);
        assert_eq!(
            result.expect_err("no room").kind(),
            io::ErrorKind::StorageFull
        );
    }
}
