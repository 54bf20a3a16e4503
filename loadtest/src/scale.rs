//! How large a measurement is: sizes of the full table, of the quick look, and what the command line changes.

use std::time::Duration;

/// The sizes of all scenarios.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) payload_bytes: usize,
    /// Length of one paced measurement.
    pub(crate) measured: Duration,
    pub(crate) deliveries_per_second: f64,
    /// Streams of one topic, one figure each.
    pub(crate) fanout: Vec<usize>,
    pub(crate) generic: usize,
    /// `WebSocket` streams of one topic, one figure each.
    pub(crate) websockets: Vec<usize>,
    /// Polls that wait for the same event.
    pub(crate) pollers: usize,
    /// Topics, and streams of each.
    pub(crate) topics: Vec<(usize, usize)>,
    /// Between these numbers of streams the slope of memory is taken.
    pub(crate) idle: (usize, usize),
    pub(crate) idle_generic: (usize, usize),
    pub(crate) latency: usize,
    pub(crate) saturated: usize,
    pub(crate) appended_events: u64,
    pub(crate) request_connections: usize,
    pub(crate) connects: usize,
    pub(crate) resumed: usize,
    pub(crate) replayed_events: u64,
    pub(crate) stuck_of: usize,
    pub(crate) stuck_measured: Duration,
    pub(crate) churned: u64,
    /// Events that are published through Redis line by line.
    pub(crate) redis_lines: u64,
    /// Single publishes a second through Redis when their round trip is measured.
    pub(crate) redis_paced: f64,
    /// Streams that come back to another replica, and their topics.
    pub(crate) storm: (usize, usize),
    /// Streams on several replicas.
    pub(crate) replicated: usize,
    /// Users of one topic on two replicas.
    pub(crate) present: usize,
    /// Topics with one event each, and events of few topics, whose memory is measured in Redis.
    pub(crate) redis_memory: (usize, u64),
}

/// What the command line may change.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Overrides {
    /// Streams or publishing connections of the scenario.
    #[arg(long)]
    connections: Option<usize>,
    /// Events of the scenario (appends, replay, redis-publish, redis-memory).
    #[arg(long)]
    events: Option<u64>,
    /// Deliveries a second of the paced scenarios; round trips a second of redis-publish.
    #[arg(long)]
    rate: Option<f64>,
    /// Connects of the churn, or of the connect scenario.
    #[arg(long)]
    connects: Option<u64>,
    /// Bytes of an event's data.
    #[arg(long)]
    payload: Option<usize>,
    /// Seconds of one paced measurement.
    #[arg(long)]
    seconds: Option<f64>,
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            payload_bytes: 128,
            measured: Duration::from_secs(5),
            deliveries_per_second: 100_000.0,
            fanout: vec![1_000, 5_000, 15_000],
            generic: 5_000,
            websockets: vec![1_000, 5_000],
            pollers: 1_000,
            topics: vec![(1_000, 5), (10_000, 1)],
            idle: (1_000, 15_000),
            idle_generic: (1_000, 5_000),
            latency: 10_000,
            saturated: 1_000,
            appended_events: 2_000_000,
            request_connections: 64,
            connects: 5_000,
            resumed: 5_000,
            replayed_events: 1_000_000,
            stuck_of: 1_000,
            stuck_measured: Duration::from_secs(14),
            churned: 100_000,
            redis_lines: 800_000,
            redis_paced: 2_000.0,
            storm: (5_000, 50),
            replicated: 3_000,
            present: 10_000,
            redis_memory: (10_000, 100_000),
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            measured: Duration::from_millis(1_500),
            fanout: vec![500, 2_000],
            generic: 500,
            websockets: vec![500],
            pollers: 200,
            topics: vec![(200, 5), (2_000, 1)],
            idle: (500, 3_000),
            idle_generic: (200, 1_000),
            latency: 2_000,
            saturated: 500,
            appended_events: 400_000,
            connects: 1_500,
            resumed: 2_000,
            replayed_events: 100_000,
            stuck_of: 200,
            stuck_measured: Duration::from_secs(4),
            churned: 3_000,
            redis_lines: 100_000,
            storm: (1_000, 50),
            replicated: 600,
            present: 1_000,
            redis_memory: (2_000, 20_000),
            ..Self::full()
        }
    }

    pub(crate) fn change(&mut self, overrides: &Overrides) {
        if let Some(connections) = overrides.connections {
            let few = (connections / 10).max(1);
            self.fanout = vec![connections];
            self.websockets = vec![connections];
            self.pollers = connections;
            self.topics = vec![(connections.div_ceil(5), 5), (connections, 1)];
            (self.idle, self.idle_generic) = ((few, connections), (few, connections));
            (self.generic, self.latency, self.saturated) = (connections, connections, connections);
            (self.resumed, self.stuck_of, self.request_connections) =
                (connections, connections, connections);
            (self.storm.0, self.replicated) = (connections, connections);
            self.present = connections;
        }
        if let Some(events) = overrides.events {
            (self.appended_events, self.replayed_events) = (events, events);
            (self.redis_lines, self.redis_memory.1) = (events, events);
        }
        if let Some(connects) = overrides.connects {
            self.churned = connects;
            self.connects = usize::try_from(connects).unwrap_or(usize::MAX);
        }
        if let Some(seconds) = overrides.seconds {
            self.measured = Duration::from_secs_f64(seconds);
            self.stuck_measured = self.measured;
        }
        self.deliveries_per_second = overrides.rate.unwrap_or(self.deliveries_per_second);
        self.redis_paced = overrides.rate.unwrap_or(self.redis_paced);
        self.payload_bytes = overrides.payload.unwrap_or(self.payload_bytes);
    }

    /// Makes every size fit under the limit of open files; returns whether something had to shrink.
    pub(crate) fn clamp(&mut self, most: usize) -> bool {
        let single = [
            &mut self.generic,
            &mut self.pollers,
            &mut self.idle.1,
            &mut self.idle_generic.1,
            &mut self.latency,
            &mut self.saturated,
            &mut self.request_connections,
            &mut self.connects,
            &mut self.resumed,
            &mut self.stuck_of,
            &mut self.storm.0,
            &mut self.replicated,
            &mut self.present,
        ];
        let mut shrunk = false;
        let several = self.fanout.iter_mut().chain(&mut self.websockets);
        for size in single.into_iter().chain(several) {
            shrunk |= *size > most;
            *size = (*size).min(most);
        }
        for (topics, each) in &mut self.topics {
            shrunk |= *topics * *each > most;
            *topics = (*topics).min(most / *each);
        }
        shrunk
    }
}
