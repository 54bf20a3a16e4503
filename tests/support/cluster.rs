//! Three masters and a replica of each: six real processes that are one cluster, started from `redis/cluster.conf`.
//!
//! All that a gateway keeps is in one slot ([`SLOT`]), so at any time one master is the one that counts: its owner.

use futures_util::future::join_all;

use super::{
    Gateway, RedisServer, Settings, Value,
    sentinel::{HASTY, PATIENT, patiently},
};

/// The slot of `{0}`.
pub(crate) const SLOT: u16 = 13_907;
/// Where the slots of the masters end.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// The six processes. They end with their owner. 0, 1 and 2 begin as masters, 3, 4 and 5 as their replicas; 2 owns our slot.
pub(crate) struct RedisCluster {
    nodes: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts it as it is shipped, but for the patience, and waits until it is whole.
    pub(crate) async fn start() -> Self {
        let settings = RedisServer::shipped("cluster.conf", |text| text).node();
        let settings = settings.config(&format!("cluster-node-timeout {PATIENT}"));
        let nodes = join_all((0..6).map(|_| settings.clone().start())).await;
        let ids = join_all(nodes.iter().map(async |node| {
            let id = node.command(&["CLUSTER", "MYID"]).await;
            id.text()
        }))
        .await;
        let cluster = Self { nodes, ids };
        cluster.join().await;
        cluster
    }

    /// What `redis-cli --cluster create` does, but for the order: a replica follows its master before it meets the others, who learn
    /// that when they meet. Later it would come to them by chance, after some seconds.
    async fn join(&self) {
        for (at, (first, last)) in SLOTS.into_iter().enumerate() {
            let [first, last] = [first, last].map(|slot| slot.to_string());
            self.ask(at, &["ADDSLOTSRANGE", &first, &last]).await;
        }
        for at in 0..6 {
            // Of their own each, so that nobody has to give way.
            self.ask(at, &["SET-CONFIG-EPOCH", &(at + 1).to_string()])
                .await;
        }
        for at in 3..6 {
            self.meet(at, at - 3).await;
        }
        for at in 3..6 {
            self.replicate(at, at - 3).await;
        }
        for at in [1, 2] {
            self.meet(0, at).await;
        }
        self.settled().await;
    }

    async fn meet(&self, at: usize, other: usize) {
        let bus = self.nodes[other].command(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.await.fields()["cluster-port"].clone();
        let port = self.nodes[other].port().to_string();
        self.ask(at, &["MEET", "127.0.0.1", &port, &bus]).await;
    }

    async fn ask(&self, at: usize, words: &[&str]) -> Value {
        let words: Vec<_> = ["CLUSTER"].iter().chain(words).copied().collect();
        self.nodes[at].command(&words).await
    }

    async fn info(&self, at: usize) -> Result<String, String> {
        let info = self.nodes[at].try_command(&["CLUSTER", "INFO"]).await;
        let info = info.map_err(|error| error.to_string())?.fields();
        let [state, count] = ["cluster_state", "cluster_known_nodes"].map(|name| &info[name]);
        Ok(format!("{state}, {count} nodes"))
    }

    /// Makes a node a replica of another.
    async fn replicate(&self, at: usize, master: usize) {
        patiently(&format!("{at} to follow {master}"), async || {
            let words = ["CLUSTER", "REPLICATE", &self.ids[master]];
            match self.nodes[at].command_or_error(&words).await? {
                Value::Status(_) => Ok(()),
                other => Err(other.to_string()),
            }
        })
        .await;
    }

    /// Some nodes, as a gateway is told.
    pub(crate) fn nodes_of(&self, which: impl IntoIterator<Item = usize>) -> String {
        let nodes = which.into_iter().map(|at| &self.nodes[at]);
        let nodes = nodes.map(|node| node.address().to_string());
        nodes.collect::<Vec<_>>().join(",")
    }

    /// A gateway that is told of all nodes and the password.
    pub(crate) fn gateway(&self) -> Settings {
        self.gateway_by(0..6)
    }

    /// A gateway that is told of these nodes.
    pub(crate) fn gateway_by(&self, which: impl IntoIterator<Item = usize>) -> Settings {
        Gateway::with("redis.cluster.nodes", self.nodes_of(which))
            .with("redis.password", self.nodes[0].password())
    }

    /// A node, by its number, to be asked.
    pub(crate) fn at(&self, at: usize) -> &RedisServer {
        &self.nodes[at]
    }

    /// The numbers of all nodes but these.
    pub(crate) fn others(&self, but: &[usize]) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|at| !but.contains(at)).collect()
    }

    fn number(&self, id: &str) -> Result<usize, String> {
        let at = self.ids.iter().position(|known| known == id);
        at.ok_or_else(|| format!("{id}, unknown"))
    }

    /// Who owns a slot and who stands by, as one node sees it.
    async fn owner_by(&self, at: usize, slot: u16) -> Result<Vec<usize>, String> {
        let ranges = self.nodes[at]
            .command_or_error(&["CLUSTER", "SLOTS"])
            .await?;
        let holds = |range: &&Value| {
            let [first, last] = [0, 1].map(|end| range.items()[end].integer());
            (first..=last).contains(&slot.into())
        };
        let range = ranges.items().iter().find(holds);
        let range = range.ok_or_else(|| format!("slot {slot} of nobody"))?;
        let ids = range.items()[2..].iter().map(|node| node.items()[2].text());
        ids.map(|id| self.number(&id)).collect()
    }

    /// The owner of our slot, as all nodes that answer see it.
    pub(crate) async fn owner(&self) -> Result<usize, String> {
        self.owner_of(SLOT).await
    }

    async fn owner_of(&self, slot: u16) -> Result<usize, String> {
        let mut owners = Vec::new();
        for at in 0..6 {
            match self.owner_by(at, slot).await {
                Ok(found) => owners.push(found[0]),
                Err(why) if why.contains("slot") || why.contains("unknown") => return Err(why),
                // One that is away says nothing.
                Err(_) => {}
            }
        }
        owners.dedup();
        match owners[..] {
            [owner] => Ok(owner),
            _ => Err(format!("{owners:?}")),
        }
    }

    /// The replicas of a node that are up and have all that it has.
    pub(crate) async fn replicas_of(&self, master: usize) -> Result<Vec<usize>, String> {
        let mut replicas = Vec::new();
        for at in self.others(&[master]) {
            let Ok(info) = self.nodes[at]
                .command_or_error(&["INFO", "replication"])
                .await
            else {
                continue;
            };
            let info = info.fields();
            let port = self.nodes[master].port().to_string();
            if info.get("master_port") == Some(&port) && info["master_link_status"] == "up" {
                replicas.push(at);
            }
        }
        Ok(replicas)
    }

    /// Waits until each of the three ranges has a master and a replica that has all, and every node agrees that all is well.
    pub(crate) async fn settled(&self) {
        patiently("the cluster to be whole", async || {
            for (first, _) in SLOTS {
                let master = self.owner_of(first).await?;
                let replicas = self.replicas_of(master).await?;
                if replicas.is_empty() {
                    return Err(format!("{master} has no replica"));
                }
                for at in 0..6 {
                    // The one that would be promoted has to be known as a replica by all.
                    let seen = self.owner_by(at, first).await?;
                    if seen.len() < 2 {
                        return Err(format!("{at} sees no replica of {master}"));
                    }
                }
            }
            self.is_ok().await
        })
        .await;
    }

    /// Whether every node that answers says so.
    async fn is_ok(&self) -> Result<(), String> {
        for at in 0..6 {
            match self.info(at).await {
                Ok(saw) if !saw.starts_with("ok") => return Err(format!("{at}: {saw}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until another node than `old` owns our slot, and says which.
    pub(crate) async fn promoted(&self, old: usize) -> usize {
        let what = format!("another owner than {old}");
        let owner = patiently(&what, async || match self.owner().await? {
            owner if owner != old => {
                let role = self.nodes[owner].command_or_error(&["ROLE"]).await?;
                match role.items()[0].text().as_str() {
                    "master" => Ok(owner),
                    role => Err(format!("{owner}, a {role}")),
                }
            }
            owner => Err(owner.to_string()),
        })
        .await;
        self.miss_after(PATIENT).await;
        owner
    }

    /// Waits until this node says that the cluster is down.
    pub(crate) async fn is_down(&self, at: usize) {
        patiently(
            &format!("{at} to say that the cluster is down"),
            async || match self.info(at).await? {
                saw if saw.starts_with("fail") => Ok(()),
                saw => Err(saw),
            },
        )
        .await;
    }

    /// Asks a replica to take the place of its master, which works along.
    pub(crate) async fn fail_over(&self, replica: usize) {
        self.ask(replica, &["FAILOVER"]).await;
    }

    /// Begins to move our slot: from now on its owner answers only for what it still has.
    pub(crate) async fn begin_to_move(&self, from: usize, to: usize) {
        let slot = SLOT.to_string();
        let [source, target] = [from, to].map(|at| self.ids[at].as_str());
        self.ask(to, &["SETSLOT", &slot, "IMPORTING", source]).await;
        self.ask(from, &["SETSLOT", &slot, "MIGRATING", target])
            .await;
    }

    /// Moves at most `count` keys of our slot; how many it were.
    pub(crate) async fn move_keys(&self, from: usize, to: usize, count: usize) -> usize {
        let words = ["GETKEYSINSLOT", &SLOT.to_string(), &count.to_string()];
        let keys = self.ask(from, &words).await;
        let keys: Vec<_> = keys.items().iter().map(Value::text).collect();
        if !keys.is_empty() {
            let port = self.nodes[to].port().to_string();
            let password = self.nodes[to].password();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
            words.extend(["AUTH", password, "KEYS"]);
            words.extend(keys.iter().map(String::as_str));
            self.nodes[from].command(&words).await;
        }
        keys.len()
    }

    /// Says to everybody whose our slot is now; the new owner first.
    pub(crate) async fn end_to_move(&self, from: usize, to: usize) {
        let slot = SLOT.to_string();
        let mut order = vec![to, from];
        for at in self.others(&[to, from]) {
            let role = self.nodes[at].command(&["ROLE"]).await;
            if role.items()[0].text() == "master" {
                order.push(at);
            }
        }
        for at in order {
            self.ask(at, &["SETSLOT", &slot, "NODE", &self.ids[to]])
                .await;
        }
        patiently("everybody to know the new owner", async || {
            match self.owner().await? {
                owner if owner == to => Ok(()),
                owner => Err(owner.to_string()),
            }
        })
        .await;
    }

    /// Moves our slot with all that is in it.
    pub(crate) async fn move_slot(&self, from: usize, to: usize) {
        self.begin_to_move(from, to).await;
        while self.move_keys(from, to, 100).await > 0 {}
        self.end_to_move(from, to).await;
    }

    async fn miss_after(&self, millis: &str) {
        let words = ["CONFIG", "SET", "cluster-node-timeout", millis];
        for node in &self.nodes {
            // One that was killed hears nothing.
            let _ = node.try_command(&words).await;
        }
    }

    /// Kills a node; it is missed soon.
    pub(crate) async fn kill(&mut self, at: usize) {
        self.miss_after(HASTY).await;
        self.nodes[at].kill();
    }

    /// These nodes neither read nor answer any more, and are missed soon.
    pub(crate) async fn freeze(&self, which: &[usize]) {
        self.miss_after(HASTY).await;
        for at in which {
            self.nodes[*at].freeze();
        }
    }

    /// They go on as if nothing had been.
    pub(crate) fn thaw(&self, which: &[usize]) {
        for at in which {
            self.nodes[*at].thaw();
        }
    }

    /// Lets a node come back with its files.
    pub(crate) async fn restart(&mut self, at: usize) {
        self.nodes[at].restart().await;
    }
}

impl RedisServer {
    /// An answer that may be an error only where the node is away.
    async fn command_or_error(&self, words: &[&str]) -> Result<Value, String> {
        let answer = self.try_command(words).await;
        answer.map_err(|error| format!("away: {error}"))
    }
}
