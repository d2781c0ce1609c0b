//! Which video each receiver is sent.

mod budget;
mod choice;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use self::budget::{Budget, percent};
use self::choice::{Cap, Choice, Costs, Layer};
use super::meter::Meter;
use crate::id::{FrameId, ParticipantId, TrackId};
use crate::units::Bitrate;
use crate::wire::datagram::MediaHeader;

/// Chooses for each receiver and camera the full track, the small one or none, with or without the frames on which none depends.
///
/// A receiver gets the best of what it shows while its hop carries the sum. When it does not, the camera that takes most is sent
/// at the next lower choice, again and again until the rest fits. One choice at a time is raised when the sum stays below
/// [`RAISE_PERCENT`] of the budget, some seconds after the last change. What one receiver is sent depends on no other, and the
/// full track is asked for a key frame only when somebody is to see it from then on.
///
/// A change to another track takes place where a key frame of that begins; until then the old one goes on.
///
/// Call a `handle_*` or a command, then drain [`Self::poll_output`] and look at [`Self::poll_timeout`]. Tracks are named by the
/// caller and belong to one camera each; a camera is named by its full track.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    cameras: BTreeMap<TrackId, Source>,
    /// Small tracks and the full ones beside them.
    smalls: BTreeMap<TrackId, TrackId>,
    receivers: BTreeMap<ParticipantId, Receiver>,
    output: VecDeque<Output>,
}

/// What [`Layers::poll_output`] hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The receiver is to be shown this track and sees nothing yet: call [`Layers::began`] if there is a key frame for it to
    /// begin with, else ask for one.
    Begin(ParticipantId, TrackId),
    /// Ask the owner of the track for a key frame.
    KeyFrame(TrackId),
    /// Tell the owner of the track whether anybody receives it. A small one is not sent before somebody does, a full one until
    /// all receive the small one.
    Wanted(ParticipantId, TrackId, bool),
    /// Tell the owner of the full track that nobody who receives it can take more; none: that somebody can.
    Limit(ParticipantId, TrackId, Option<Bitrate>),
    /// What the best choice of everything would take, payload only.
    VideoWanted(ParticipantId, Bitrate),
}

/// A camera.
#[derive(Debug)]
struct Source {
    owner: ParticipantId,
    full: Measured,
    small: Option<Measured>,
    limit: Limit,
    routes: BTreeMap<ParticipantId, Route>,
}

#[derive(Debug)]
struct Measured {
    track: TrackId,
    meter: Meter,
    /// Whether the owner was told to send it, or does so unasked.
    wanted: bool,
    /// Since when nobody receives it though it is sent.
    unused_since: Option<Instant>,
}

/// What a receiver is sent of a camera.
#[derive(Debug, Default)]
struct Route {
    choice: Choice,
    /// The track that is sent. When it is not the chosen one, a key frame of that is waited for.
    sent: Option<Layer>,
    /// The key frame that it began with; what is older is of no use.
    from: Option<FrameId>,
    /// Since when a key frame is waited for, and when it was asked for last.
    waiting: Option<(Instant, Instant)>,
    /// The part of what the receiver's hop carries that is for this camera; none without a known limit.
    share: Option<u64>,
}

#[derive(Debug)]
struct Receiver {
    sees: bool,
    /// Heights of the pictures of the others; who is missing is shown at full size.
    view: BTreeMap<ParticipantId, u32>,
    budget: Budget,
}

/// A camera in the plan of a receiver.
struct Item {
    full: TrackId,
    choices: &'static [Choice],
    /// Which of the choices.
    at: usize,
    costs: Costs,
}

impl Layers {
    /// Somebody can publish with this camera.
    pub(crate) fn add_camera(
        &mut self,
        now: Instant,
        owner: ParticipantId,
        full: TrackId,
        small: Option<TrackId>,
    ) {
        self.smalls.extend(small.map(|small| (small, full)));
        let measured =
            |track, wanted| Measured { track, meter: Meter::default(), wanted, unused_since: None };
        let mut source = Source {
            owner,
            full: measured(full, true),
            small: small.map(|small| measured(small, false)),
            limit: Limit::default(),
            routes: BTreeMap::new(),
        };
        for (&to, receiver) in self.receivers.iter().filter(|(to, _)| **to != owner) {
            let best = receiver.choices(&source)[0];
            source.choose(now, to, best, &mut self.output);
        }
        self.cameras.insert(full, source);
    }

    /// Somebody is there to be shown the others, if they want to see (`sees`).
    pub(crate) fn add_receiver(&mut self, now: Instant, id: ParticipantId, sees: bool) {
        let receiver = Receiver { sees, view: BTreeMap::new(), budget: Budget::default() };
        for source in self.cameras.values_mut().filter(|s| s.owner != id) {
            let best = receiver.choices(source)[0];
            source.choose(now, id, best, &mut self.output);
        }
        self.receivers.insert(id, receiver);
    }

    /// Somebody is gone, as a receiver and with all cameras.
    pub(crate) fn remove(&mut self, now: Instant, id: ParticipantId) {
        self.receivers.remove(&id);
        self.cameras.retain(|_, source| source.owner != id);
        self.smalls.retain(|_, full| self.cameras.contains_key(full));
        for source in self.cameras.values_mut() {
            source.routes.remove(&id);
            source.note_use(now, &mut self.output);
        }
    }

    /// The receiver wants to see the others, or no longer.
    pub(crate) fn set_sees(&mut self, now: Instant, id: ParticipantId, sees: bool) {
        self.change(now, id, |receiver| receiver.sees = sees);
    }

    /// How high the receiver shows the others.
    pub(crate) fn set_view(&mut self, now: Instant, id: ParticipantId, view: BTreeMap<ParticipantId, u32>) {
        self.change(now, id, |receiver| receiver.view = view);
    }

    /// The hop to the receiver carries so much video, payload only.
    pub(crate) fn handle_budget(&mut self, now: Instant, id: ParticipantId, carries: Bitrate) {
        let Some(receiver) = self.receivers.get_mut(&id) else { return };
        receiver.budget.handle_rate(carries);
        let plan = self.plan(now, id);
        self.decide(now, id, plan);
    }

    /// Takes a datagram of a camera and tells to whom it goes. `bytes`: its payload; `begins`: it is the first one of a new key
    /// frame.
    pub(crate) fn handle_media(
        &mut self,
        now: Instant,
        header: &MediaHeader,
        bytes: usize,
        begins: bool,
        mut forward: impl FnMut(ParticipantId),
    ) {
        let full = *self.smalls.get(&header.track).unwrap_or(&header.track);
        let Some(source) = self.cameras.get_mut(&full) else { return };
        let (layer, measured) = match &mut source.small {
            Some(small) if small.track == header.track => (Layer::Small, small),
            _ => (Layer::Full, &mut source.full),
        };
        measured.meter.handle_media(now, bytes, header.discardable);
        let (mut switched, mut asks) = (false, [None; 2]);
        for (&to, route) in &mut source.routes {
            if let Some(wanted) = route.awaits() {
                if begins && wanted == layer {
                    route.begin(layer, header.frame);
                    switched = true;
                } else if route.asks_again(now) {
                    asks[wanted as usize] = Some(wanted);
                }
            }
            if route.takes(layer, header) {
                forward(to);
            }
        }
        let tracks = asks.into_iter().flatten().filter_map(|layer| source.track(layer));
        self.output.extend(tracks.map(Output::KeyFrame));
        if switched {
            source.note_use(now, &mut self.output);
        }
    }

    /// The receiver was sent a track ([`Output::Begin`]) from this key frame to the newest datagram.
    pub(crate) fn began(&mut self, id: ParticipantId, track: TrackId, key: FrameId) {
        if let Some((layer, route)) = self.route_mut(id, track)
            && route.awaits() == Some(layer)
        {
            route.begin(layer, key);
        }
    }

    /// Whether the receiver is sent frames of the track on which none depends.
    pub(crate) fn sends_discardable(&self, id: ParticipantId, track: TrackId) -> bool {
        self.route(id, track).is_some_and(|(_, route)| !route.choice.is_thin())
    }

    /// Whether what the receiver needs of the track matters: it is sent, or about to be. Of one that is about to be replaced it
    /// does not, or a slow receiver would disturb all others with what it lost; unless the other does not come.
    pub(crate) fn cares(&self, now: Instant, id: ParticipantId, track: TrackId) -> bool {
        let Some((layer, route)) = self.route(id, track) else { return false };
        match (route.awaits(), route.waiting) {
            (Some(wanted), _) if wanted == layer => true,
            (Some(_), Some((since, _))) if now < since + PATIENCE => false,
            _ => route.sent == Some(layer),
        }
    }

    /// Call when the time of [`Self::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for source in self.cameras.values_mut() {
            source.stop_unused(now, &mut self.output);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.cameras.values().filter_map(Source::unused_until).min()
    }

    /// What to do next, if anything.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// The receiver changed what it wants to see. What had the best choice goes to the new best one.
    fn change(&mut self, now: Instant, id: ParticipantId, change: impl FnOnce(&mut Receiver)) {
        let before = self.plan(now, id);
        let Some(receiver) = self.receivers.get_mut(&id) else { return };
        change(receiver);
        let mut plan = self.plan(now, id);
        for (item, old) in plan.iter_mut().zip(before) {
            if old.at == 0 && old.choices != item.choices {
                item.at = 0;
            }
        }
        // What is shown anew must fit from the start.
        if let Some(limit) = self.receivers.get_mut(&id).and_then(|r| r.budget.limit(now)) {
            lower(&mut plan, limit);
        }
        self.decide(now, id, plan);
    }

    /// What the receiver is sent of every camera, with all that might be sent instead.
    fn plan(&self, now: Instant, id: ParticipantId) -> Vec<Item> {
        let Some(receiver) = self.receivers.get(&id) else { return Vec::new() };
        let item = |source: &Source| {
            let choices = receiver.choices(source);
            let chosen = source.routes.get(&id)?.choice;
            // What is no longer allowed gives way to the best of what is less.
            let at = choices.iter().position(|c| *c <= chosen).unwrap_or(choices.len() - 1);
            Some(Item { full: source.full.track, choices, at, costs: Costs::of(source, now) })
        };
        self.cameras.values().filter_map(item).collect()
    }

    /// Makes the plan fit the receiver's budget and carries it out.
    fn decide(&mut self, now: Instant, id: ParticipantId, mut plan: Vec<Item>) {
        let Some(receiver) = self.receivers.get_mut(&id) else { return };
        let budget = &mut receiver.budget;
        let limit = budget.limit(now);
        let best: u64 = plan.iter().map(|item| item.cost_at(0)).sum();
        for item in &mut plan {
            let Some(source) = self.cameras.get_mut(&item.full) else { continue };
            let share = limit.map(|l| percent(l, item.cost_at(0).saturating_mul(100) / best.max(1)));
            if let Some(route) = source.routes.get_mut(&id) {
                route.share = share;
            }
            // Where nobody could take more of the full track, its owner makes it fit rather than sending another one.
            if let Some(limit) = source.tell_limit(now, &mut self.output) {
                item.costs.limit_full(limit);
            }
        }
        let bearable = limit.map_or(u64::MAX, |limit| percent(limit, BEARABLE_PERCENT));
        let too_much = sum(&plan) > bearable;
        if budget.is_over_for_long(now, too_much) && lower(&mut plan, limit.unwrap_or(u64::MAX)) {
            budget.lowered(now);
        } else if !too_much
            && budget.may_raise(now)
            && raise(&mut plan, limit.map_or(u64::MAX, |limit| percent(limit, RAISE_PERCENT)))
        {
            budget.raised(now);
        }
        let shows = plan.iter().any(|item| item.choices[0] != Choice::Nothing);
        // Of what is limited more would be sent if the hop bore it.
        let limited = |item: &Item| self.cameras.get(&item.full).is_some_and(|s| s.limit.told.is_some());
        let best = if plan.iter().any(limited) { best * 3 } else { best };
        let wanted = Bitrate::from_bps(if shows { best.max(MIN_WANTED.bps()) } else { 0 });
        self.output.extend(budget.news(now, wanted).map(|rate| Output::VideoWanted(id, rate)));
        for item in plan {
            if let Some(source) = self.cameras.get_mut(&item.full) {
                source.choose(now, id, item.choices[item.at], &mut self.output);
            }
        }
    }

    fn route(&self, id: ParticipantId, track: TrackId) -> Option<(Layer, &Route)> {
        let full = *self.smalls.get(&track).unwrap_or(&track);
        let source = self.cameras.get(&full)?;
        Some((if full == track { Layer::Full } else { Layer::Small }, source.routes.get(&id)?))
    }

    fn route_mut(&mut self, id: ParticipantId, track: TrackId) -> Option<(Layer, &mut Route)> {
        let full = *self.smalls.get(&track).unwrap_or(&track);
        let source = self.cameras.get_mut(&full)?;
        Some((if full == track { Layer::Full } else { Layer::Small }, source.routes.get_mut(&id)?))
    }
}

impl Source {
    /// Works out what the owner should keep the full track to, tells it if that is news, and returns it.
    fn tell_limit(&mut self, now: Instant, output: &mut VecDeque<Output>) -> Option<u64> {
        let takers = self.routes.values().filter(|r| r.choice.layer() == Some(Layer::Full));
        // In the order of Option, none is less than some: there is a limit only when each has one.
        let shares: Option<Vec<u64>> = takers.map(|r| r.share).collect();
        let least = if self.small.is_some() { MIN_LIMIT } else { MIN_ONLY_LIMIT };
        let bears = shares.and_then(|shares| shares.into_iter().max()).map(|bps| bps.max(least));
        let measured = self.full.meter.rates(now).map_or(0, |rates| rates.all.bps());
        if let Some(news) = self.limit.follow(now, bears, measured) {
            output.push_back(Output::Limit(self.owner, self.full.track, news.map(Bitrate::from_bps)));
        }
        self.limit.told
    }

    /// From now on the receiver is to be sent this.
    fn choose(&mut self, now: Instant, to: ParticipantId, choice: Choice, output: &mut VecDeque<Output>) {
        let route = self.routes.entry(to).or_default();
        if route.choice == choice {
            return;
        }
        let before = route.choice.layer();
        route.choice = choice;
        if choice.layer() == before {
            return;
        }
        let Some(layer) = choice.layer() else {
            *route = Route::default();
            return self.note_use(now, output);
        };
        let (waits, sees) = (route.sent != Some(layer), route.sent.is_some());
        route.waiting = waits.then_some((now, now));
        self.note_use(now, output);
        if let Some(track) = self.track(layer).filter(|_| waits) {
            output.push_back(if sees { Output::KeyFrame(track) } else { Output::Begin(to, track) });
        }
    }

    fn track(&self, layer: Layer) -> Option<TrackId> {
        match layer {
            Layer::Full => Some(self.full.track),
            Layer::Small => self.small.as_ref().map(|s| s.track),
        }
    }

    /// Looks whether anybody receives each track, or is to.
    fn note_use(&mut self, now: Instant, output: &mut VecDeque<Output>) {
        let uses = |layer| self.routes.values().any(|r| [r.sent, r.choice.layer()].contains(&Some(layer)));
        let (full, small) = (uses(Layer::Full), uses(Layer::Small));
        if let Some(measured) = &mut self.small {
            output.extend(measured.note_use(now, small).map(|track| Output::Wanted(self.owner, track, true)));
        }
        // Whoever comes is to see a picture at once, so without anybody the full track goes on.
        let full = full || !small;
        output.extend(self.full.note_use(now, full).map(|track| Output::Wanted(self.owner, track, true)));
    }

    /// Has those tracks stopped that nobody has received for long enough.
    fn stop_unused(&mut self, now: Instant, output: &mut VecDeque<Output>) {
        for measured in self.small.iter_mut().chain([&mut self.full]) {
            if measured.unused_until().is_some_and(|t| t <= now) {
                (measured.unused_since, measured.wanted) = (None, false);
                output.push_back(Output::Wanted(self.owner, measured.track, false));
            }
        }
    }

    fn unused_until(&self) -> Option<Instant> {
        let small = self.small.as_ref().and_then(Measured::unused_until);
        small.into_iter().chain(self.full.unused_until()).min()
    }
}

/// What the owner of a full track was told to keep it to.
#[derive(Debug, Default)]
struct Limit {
    told: Option<u64>,
    at: Option<Instant>,
}

impl Limit {
    /// Follows what receivers bear downwards at once and upwards step by step: how much more they bear shows only when it is sent.
    /// Returns what to tell, if it is news.
    fn follow(&mut self, now: Instant, bears: Option<u64>, measured: u64) -> Option<Option<u64>> {
        let next = match (self.told, bears) {
            (None, None) => return None,
            (None, Some(bears)) => Some(bears),
            (Some(told), _) if bears.is_some_and(|b| b < percent(told, 95)) => bears,
            (Some(told), _) => {
                if self.at.is_some_and(|at| now < at + LIMIT_STEP) {
                    return None;
                }
                let more = percent(told, 200).min(bears.unwrap_or(u64::MAX));
                let enough = bears.is_none() && more > 2 * measured;
                if enough { None } else { Some(more) }
            }
        };
        if next == self.told {
            return None;
        }
        (self.told, self.at) = (next, Some(now));
        Some(next)
    }
}

impl Measured {
    /// Notes whether anybody receives it. Returns the track when its owner must send it again.
    fn note_use(&mut self, now: Instant, used: bool) -> Option<TrackId> {
        if !used {
            if self.wanted {
                self.unused_since.get_or_insert(now);
            }
            return None;
        }
        self.unused_since = None;
        (!std::mem::replace(&mut self.wanted, true)).then_some(self.track)
    }

    fn unused_until(&self) -> Option<Instant> {
        Some(self.unused_since? + UNUSED_HOLD)
    }
}

impl Route {
    /// The track of which a key frame is waited for.
    fn awaits(&self) -> Option<Layer> {
        self.choice.layer().filter(|layer| self.sent != Some(*layer))
    }

    const fn begin(&mut self, layer: Layer, key: FrameId) {
        (self.sent, self.from, self.waiting) = (Some(layer), Some(key), None);
    }

    fn asks_again(&mut self, now: Instant) -> bool {
        let due = |asked_at: &mut Instant| {
            let due = now >= *asked_at + ASK_AGAIN;
            if due {
                *asked_at = now;
            }
            due
        };
        self.waiting.as_mut().is_some_and(|(_, asked_at)| due(asked_at))
    }

    fn takes(&self, layer: Layer, header: &MediaHeader) -> bool {
        self.sent == Some(layer)
            && !(header.discardable && self.choice.is_thin())
            && self.from.is_none_or(|from| header.frame.since(from) >= 0)
    }
}

impl Receiver {
    /// What may be sent of a camera, from most to least.
    fn choices(&self, source: &Source) -> &'static [Choice] {
        let cap = match self.view.get(&source.owner) {
            _ if !self.sees => Cap::Nothing,
            Some(height) => Cap::of_height(*height),
            None => Cap::Full,
        };
        cap.choices(source.small.is_some())
    }
}

impl Item {
    const fn cost_at(&self, at: usize) -> u64 {
        self.costs.of_choice(self.choices[at])
    }
}

/// Lowers what takes most until all fits. Whether there was anything to lower.
fn lower(plan: &mut [Item], limit: u64) -> bool {
    let mut lowered = false;
    while sum(plan) > limit {
        let can = plan.iter_mut().filter(|item| item.at + 1 < item.choices.len());
        let Some(item) = can.max_by_key(|item| item.cost_at(item.at)) else { break };
        item.at += 1;
        lowered = true;
    }
    lowered
}

/// Raises the one that takes least and can be raised within the limit. Whether there was one.
fn raise(plan: &mut [Item], limit: u64) -> bool {
    let sum = sum(plan);
    let after = |item: &Item| sum - item.cost_at(item.at) + item.cost_at(item.at.saturating_sub(1));
    let can = plan.iter_mut().filter(|item| item.at > 0 && after(item) <= limit);
    let least = can.min_by_key(|item| item.cost_at(item.at));
    least.map(|item| item.at -= 1).is_some()
}

fn sum(plan: &[Item]) -> u64 {
    plan.iter().map(|item| item.cost_at(item.at)).sum()
}

/// So much more than the budget is left to the hop, which drops single frames on which none depends; rates swing.
const BEARABLE_PERCENT: u64 = 115;
/// A full track with less than this is worth less than the small one.
const MIN_LIMIT: u64 = 150_000;
/// The same where there is no small one.
const MIN_ONLY_LIMIT: u64 = 40_000;
/// Between two steps of a limit upwards: what a hop makes of the last one has shown by then.
const LIMIT_STEP: Duration = Duration::from_millis(500);
/// What may be taken up when more is tried: rates swing, and a fuller hop would be too full at once.
const RAISE_PERCENT: u64 = 85;
/// A key frame that does not come is asked for again; longer than most round trips and the time of an encoder to start.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Longer than a key frame takes on any hop that is of use. After that, the old track is all there is.
const PATIENCE: Duration = Duration::from_secs(2);
/// An encoder that was started for somebody is kept for a while: who flaps, or moves windows, comes back.
const UNUSED_HOLD: Duration = Duration::from_secs(5);
/// A camera that is switched on should not find a hop that was probed for nothing.
const MIN_WANTED: Bitrate = Bitrate::from_kbps(500);

#[cfg(test)]
mod tests;
