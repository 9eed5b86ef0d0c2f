//! The epochs that stay in memory, beside the model.

use mmsb_core::{Cost, Result, Retention};

use super::{Driver, TICK};
use crate::model::opens::Opens;

/// What is known of the window of a bus.
#[derive(Debug)]
pub(super) struct Window {
    retention: Retention,
    floor: u64,
}

impl Driver {
    pub(super) fn retain(&mut self, rule: u8) -> Result<()> {
        let retention = match rule {
            0 => None,
            1..128 => Some(Retention::Epochs(u64::from(rule))),
            _ => Some(Retention::Nanoseconds(u64::from(rule - 128) * TICK)),
        };
        self.bus.retain(retention)?;
        let newest = self.epoch();
        let floor = self.window.as_ref().map_or(newest, |window| window.floor);
        self.window = retention.map(|retention| Window { retention, floor });
        self.move_window();
        self.note(None);
        for epoch in 0..=newest as usize {
            self.open_epoch(epoch)?;
        }
        Ok(())
    }

    pub(super) fn is_in_window(&self, epoch: u64) -> bool {
        self.window.as_ref().is_some_and(|window| epoch >= window.floor)
    }

    /// The newest epoch is another: the window goes on, and a bus in memory may let go what lies before.
    pub(super) fn move_window(&mut self) {
        let Some(Window { retention, floor: before }) = self.window else { return };
        let stats = self.bus.stats().unwrap();
        let floor = stats.iter().find(|(name, _)| *name == "retained_since").unwrap().1;
        match retention {
            Retention::Epochs(most) => {
                assert_eq!(floor, before.max((self.epoch() + 1).saturating_sub(most)));
            }
            Retention::Nanoseconds(_) => assert!((before..=self.epoch()).contains(&floor)),
        }
        self.window = Some(Window { retention, floor });
        for epoch in [floor, self.epoch()] {
            assert_eq!(
                self.bus.cost(epoch).unwrap(),
                Cost::default(),
                "epoch {epoch} is in memory"
            );
            self.open_epoch(epoch as usize).unwrap();
        }
        if self.place.is_none() {
            let base = floor.max(self.must.base);
            let tagged = self.head().tags.values().copied();
            let kept = tagged.filter(|&epoch| epoch < base && self.must.has(epoch)).collect();
            self.must = Opens { base, kept };
        }
    }
}
