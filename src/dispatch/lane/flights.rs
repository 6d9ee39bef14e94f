//! Deliveries of a lane that are under way, and what is to be looked at once one of them has landed. Owns two rules: two
//! attempts of one delivery never overlap, nor do two of one line (`ordering_key`), whatever was decided about them meanwhile.

use crate::clock::Millis;
use crate::model::event::OrderKey;
use crate::model::id::Seq;
use crate::store::op::RowKey;

/// A delivery under way, or one whose outcome is not durable yet.
pub(super) struct Flight {
    pub event: Seq,
    /// Its row; a fresh one may get one meanwhile.
    pub row: Option<RowKey>,
    /// The attempt is over: its outcome is on the way to the disk.
    pub ended: bool,
    /// Its success survives a crash of the process already: the permit is free.
    pub spooled: bool,
    /// It was cancelled: its attempt may end, and it never waits again.
    pub cancelled: bool,
    /// Its line, once its event was read.
    order: Option<OrderKey>,
    after: Option<Box<After>>,
}

/// What waits for one to land.
#[derive(Default)]
pub(super) struct After {
    /// When the first row of each kind is due that it stood in the way of.
    pub started: Option<Millis>,
    pub waiting: Option<Millis>,
    pub fresh: Vec<Seq>,
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Go,
    Cancelled,
    /// The one of this event, of the same line, is to land first.
    Behind(Seq),
}

#[derive(Default)]
pub(super) struct Flights {
    all: Vec<Flight>,
    /// Those of them whose permit is free already.
    spooled: usize,
    cancelled: usize,
}

impl Flight {
    /// What waits for it to land.
    pub fn after(&mut self) -> &mut After {
        self.after.get_or_insert_default()
    }

    pub fn take_after(&mut self) -> Option<Box<After>> {
        self.after.take()
    }
}

impl After {
    /// A row is to be looked at then.
    pub fn note(&mut self, key: RowKey) {
        super::note(if key.started { &mut self.started } else { &mut self.waiting }, Some(key.due_ms));
    }
}

impl Flights {
    pub fn push(&mut self, event: Seq, row: Option<RowKey>) {
        let (ended, spooled, cancelled) = (false, false, false);
        self.all.push(Flight { event, row, ended, spooled, cancelled, order: None, after: None });
    }

    pub fn find(&mut self, event: Seq) -> Option<&mut Flight> {
        self.all.iter_mut().find(|flight| flight.event == event)
    }

    pub fn get(&self, event: Seq) -> Option<&Flight> {
        self.all.iter().find(|flight| flight.event == event)
    }

    pub fn events(&self) -> impl Iterator<Item = Seq> {
        self.all.iter().map(|flight| flight.event)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many use a permit.
    pub fn permits(&self) -> usize {
        self.all.len() - self.spooled
    }

    pub fn spooled(&self) -> usize {
        self.spooled
    }

    /// An attempt is over; gives the row that the delivery has by now.
    pub fn end(&mut self, event: Seq, spooled: bool) -> Option<RowKey> {
        let flight = self.find(event)?;
        flight.ended = true;
        flight.spooled = spooled;
        let row = flight.row;
        self.spooled += usize::from(spooled);
        row
    }

    /// One is not under way any more.
    pub fn remove(&mut self, event: Seq) -> Option<Flight> {
        let place = self.all.iter().position(|flight| flight.event == event)?;
        let flight = self.all.swap_remove(place);
        self.spooled -= usize::from(flight.spooled);
        self.cancelled -= usize::from(flight.cancelled);
        Some(flight)
    }

    /// One is cancelled; also a fresh one that waits for another to land. False: it is neither.
    pub fn cancel(&mut self, event: Seq) -> bool {
        for after in self.all.iter_mut().filter_map(|flight| flight.after.as_mut()) {
            if let Some(place) = after.fresh.iter().position(|seq| *seq == event) {
                after.fresh.remove(place);
                return true;
            }
        }
        let Some(flight) = self.find(event) else { return false };
        let new = !std::mem::replace(&mut flight.cancelled, true);
        self.cancelled += usize::from(new);
        true
    }

    /// Whether any is cancelled.
    pub fn any_cancelled(&self) -> bool {
        self.cancelled > 0
    }

    /// Whether the attempt of `event`, which stands in this line, may be made.
    pub fn check(&mut self, event: Seq, order: Option<OrderKey>) -> Checked {
        if self.get(event).is_some_and(|flight| flight.cancelled) {
            return Checked::Cancelled;
        }
        if order.is_none() {
            return Checked::Go;
        }
        let other = self.all.iter().find(|flight| flight.event != event && flight.order == order && !flight.ended);
        if let Some(other) = other {
            return Checked::Behind(other.event);
        }
        if let Some(flight) = self.find(event) {
            flight.order = order;
        }
        Checked::Go
    }

    /// Fresh deliveries of events below `floor`, which get rows due then. One whose outcome is on its way gets none: that is
    /// its record; nor does one that was cancelled.
    pub fn laggards(&mut self, floor: Seq, due_ms: Millis) -> Vec<Seq> {
        let key = RowKey { started: false, due_ms };
        let mut laggards = Vec::new();
        for flight in &mut self.all {
            if flight.event < floor && flight.row.is_none() && !flight.ended && !flight.cancelled {
                flight.row = Some(key);
                laggards.push(flight.event);
            }
            let Some(after) = &mut flight.after else { continue };
            let before = laggards.len();
            laggards.extend(after.fresh.extract_if(.., |seq| *seq < floor));
            if laggards.len() > before {
                after.note(key);
            }
        }
        laggards
    }
}
