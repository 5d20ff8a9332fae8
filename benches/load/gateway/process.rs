//! A program with all its children, ended by its handle, and by a guardian when the benchmark itself is ended.

use std::{
    fs, io,
    os::unix::{fs::FileExt, process::CommandExt},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// Its input ends with whoever holds the other end; then it ends the group.
const GUARDIAN: &str = "cat >/dev/null; kill -s KILL -- \"-$1\" 2>/dev/null";

/// The first process leads a group of its own.
pub struct Process {
    leader: Child,
    guardian: Child,
    output: fs::File,
}

/// What a process and its children have used so far.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    /// Memory in RAM.
    pub mib: f64,
}

impl Process {
    /// Starts it; what it prints is kept for its last words.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let output = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?).process_group(0);
        let leader = command.spawn()?;
        let group = leader.id().to_string();
        let guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian", &group])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { leader, guardian, output })
    }

    /// What all processes of the group have used.
    pub fn usage(&self) -> Usage {
        let group = self.leader.id().to_string();
        let mut usage = Usage::default();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            // One that ends meanwhile is not counted.
            let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
            let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            if fields.get(2) != Some(&group.as_str()) {
                continue;
            }
            let number = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            usage.cpu_seconds += (number(11) + number(12)) / 100.0;
            usage.mib += number(21) * 4096.0 / f64::from(1 << 20);
        }
        usage
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<String> {
        let status = self.leader.try_wait().ok().flatten()?;
        Some(format!("it ended ({status}); {}", self.last_words()))
    }

    /// The last line it printed.
    pub fn last_words(&self) -> String {
        // The program writes on at the same place of the file, so it is read by places.
        let mut text = vec![0; self.output.metadata().map_or(0, |told| told.len() as usize)];
        let read = self.output.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]).trim().to_owned();
        format!("its last words: {}", text.lines().last().unwrap_or("none"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.leader.id().cast_signed()) {
            // One that has ended already need not be killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.leader.wait();
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}
