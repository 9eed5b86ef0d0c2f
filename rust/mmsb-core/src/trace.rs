//! The one place where operations emit `tracing` events.
//!
//! Names are stable: programs match on them, and DIAGNOSTICS.md lists them beside [`EVENTS`]. All have the target
//! `mmsb`, their name in the field `event` and a sentence as message. While nobody listens an event costs the check
//! of a static level; fields are turned into values only for a subscriber that wants the event.

use std::path::Path;

/// A type that may be a field of an event.
trait Field {
    fn value(&self) -> impl tracing::Value;
}

impl Field for u64 {
    fn value(&self) -> impl tracing::Value {
        *self
    }
}

impl Field for f64 {
    fn value(&self) -> impl tracing::Value {
        *self
    }
}

impl Field for Option<u64> {
    fn value(&self) -> impl tracing::Value {
        *self
    }
}

impl Field for &str {
    fn value(&self) -> impl tracing::Value {
        *self
    }
}

impl Field for &Path {
    fn value(&self) -> impl tracing::Value {
        tracing::field::display(self.display())
    }
}

macro_rules! events {
    ($($level:ident $name:literal $meaning:literal $call:ident($($field:ident: $kind:ty),*);)*) => {
        /// Every event: its name, its level and what it means, in the order of their introduction.
        pub const EVENTS: &[(&str, &str, &str)] = &[$(($name, stringify!($level), $meaning),)*];
        $(
            #[doc = $meaning]
            #[inline]
            pub(crate) fn $call($($field: $kind),*) {
                tracing::event!(
                    target: "mmsb",
                    tracing::Level::$level,
                    event = $name,
                    $($field = Field::value(&$field),)*
                    $meaning
                );
            }
        )*
    };
}

events! {
    INFO "mmsb.create" "a bus was created"
        create(path: &Path, durability: &str);
    INFO "mmsb.open" "a bus was opened"
        open(path: &Path, mode: &str, durability: &str, epoch: u64);
    INFO "mmsb.close" "a bus was closed"
        close(path: &Path, epoch: u64);
    INFO "mmsb.recovery.done" "the state was rebuilt from checkpoint and log"
        recovery_done(path: &Path, epoch: u64, checkpoint_epoch: Option<u64>, records: u64, seconds: f64);
    WARN "mmsb.recovery.torn" "the log ended in an incomplete record that nothing proves durable"
        recovery_torn(file: &Path, offset: u64, bytes: u64);
    WARN "mmsb.quarantine" "bytes that are not part of the state were kept aside"
        quarantine(file: &Path, bytes: u64);
    TRACE "mmsb.commit" "a commit was published"
        commit(epoch: u64, bytes: u64, durability: &str);
    DEBUG "mmsb.conflict" "a transaction met a change of another commit"
        conflict(epoch: u64, page: u64);
    DEBUG "mmsb.sync" "the log was made durable"
        sync(epoch: u64);
    ERROR "mmsb.sync.failed" "the log could not be made durable; the writer has ended"
        sync_failed(epoch: u64, error: &str);
    ERROR "mmsb.append.failed" "a record could not be appended; the writer has ended"
        append_failed(epoch: u64, error: &str);
    DEBUG "mmsb.log.roll" "the log went on in a new segment"
        log_roll(file: &Path, epoch: u64);
    INFO "mmsb.checkpoint.begin" "a checkpoint is being written"
        checkpoint_begin(epoch: u64);
    INFO "mmsb.checkpoint.done" "a checkpoint was written"
        checkpoint_done(file: &Path, epoch: u64, bytes: u64, seconds: f64);
    ERROR "mmsb.checkpoint.failed" "an automatic checkpoint could not be written; the log has everything"
        checkpoint_failed(path: &Path, error: &str);
    WARN "mmsb.checkpoint.damaged" "a checkpoint was passed over because it is damaged"
        checkpoint_damaged(file: &Path, error: &str);
    DEBUG "mmsb.fork" "an independent bus was made of an epoch"
        fork(epoch: u64);
    INFO "mmsb.restore" "the state of an earlier epoch was committed again"
        restore(epoch: u64, from: u64);
    DEBUG "mmsb.index.done" "a sealed segment got its index"
        index_done(file: &Path, bytes: u64);
    WARN "mmsb.index.failed" "a segment has no index; queries read all of it"
        index_failed(file: &Path, error: &str);
    INFO "mmsb.backup.done" "a copy of the store was made"
        backup_done(path: &Path, epoch: u64);
    WARN "mmsb.retain.failed" "what a bus in memory no longer retains could not be let go"
        forget_failed(error: &str);
    INFO "mmsb.prune" "history that was not to be kept was let go"
        prune(path: &Path, oldest: u64, files: u64, bytes: u64);
    INFO "mmsb.salvage.done" "what is good of a damaged store was written into a new one"
        salvage_done(path: &Path, epoch: u64, problems: u64);
    ERROR "mmsb.verify.problem" "verify found damage"
        verify_problem(file: &Path, offset: Option<u64>, epoch: Option<u64>, error: &str);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fmt::{Debug, Write};
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field as Key, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    type Lines = Arc<Mutex<Vec<String>>>;

    /// Writes each event that is not below its level as one line.
    struct Capture(Level, Lines);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, key: &Key, value: &dyn Debug) {
            let _ = write!(self.0, " {}={value:?}", key.name());
        }
    }

    impl Subscriber for Capture {
        fn enabled(&self, about: &Metadata<'_>) -> bool {
            *about.level() <= self.0
        }
        fn event(&self, event: &Event<'_>) {
            let about = event.metadata();
            let mut line = Line(format!("{} {}", about.target(), about.level()));
            event.record(&mut line);
            if let Ok(mut lines) = self.1.lock() {
                lines.push(line.0);
            }
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    pub(crate) fn captured(level: Level, emit: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        tracing::subscriber::with_default(Capture(level, lines.clone()), emit);
        lines.lock().map(|l| l.clone()).unwrap_or_default()
    }

    #[test]
    fn an_event_carries_its_name_and_typed_fields() {
        let lines = captured(Level::TRACE, || {
            recovery_done(Path::new("sim.mmsb"), 9, None, 4, 0.5);
            recovery_done(Path::new("sim.mmsb"), 9, Some(5), 4, 0.5);
            sync_failed(7, "no space");
        });
        let done = "message=the state was rebuilt from checkpoint and log \
                    event=\"mmsb.recovery.done\" path=sim.mmsb epoch=9";
        assert_eq!(
            lines,
            [
                format!("mmsb INFO {done} records=4 seconds=0.5"),
                format!("mmsb INFO {done} checkpoint_epoch=5 records=4 seconds=0.5"),
                "mmsb ERROR message=the log could not be made durable; the writer has ended \
                 event=\"mmsb.sync.failed\" epoch=7 error=\"no space\""
                    .to_owned(),
            ]
        );
    }

    /// Remembers that it was read.
    impl Field for &Cell<bool> {
        fn value(&self) -> impl tracing::Value {
            self.set(true);
            0_u64
        }
    }

    #[allow(unreachable_pub)]
    mod probe {
        use super::{Cell, Field};
        events! { DEBUG "mmsb.probe" "a probe" probe(field: &Cell<bool>); }
    }

    #[test]
    fn an_event_that_nobody_wants_reads_no_field() {
        let read = Cell::new(false);
        probe::probe(&read);
        assert_eq!(captured(Level::INFO, || probe::probe(&read)), [""; 0]);
        assert!(!read.get());
        assert_eq!(captured(Level::DEBUG, || probe::probe(&read)).len(), 1);
        assert!(read.get());
        assert_eq!(probe::EVENTS, [("mmsb.probe", "DEBUG", "a probe")]);
    }

    #[test]
    fn names_are_dotted_and_given_once() {
        let mut names: Vec<_> = EVENTS.iter().map(|e| e.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EVENTS.len());
        for name in names {
            let rest = name.strip_prefix("mmsb.").unwrap_or_default();
            assert!(
                !rest.is_empty() && rest.chars().all(|c| c == '.' || c.is_ascii_lowercase()),
                "{name}"
            );
        }
    }
}
