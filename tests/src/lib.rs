//! The harness of the suites that need root: hosts, containers and wires made of network namespaces, raw
//! packets, small traffic peers, and readers of the counters.
//!
//! * [`exec`], [`wait`]: processes and conditions, each with a deadline
//! * [`netns`], [`underlay`], [`workdir`]: namespaces, the wire between hosts, directories
//! * [`host`], [`container`], [`topology`]: agents, containers, and clusters of both; [`builds`]: which agent runs
//! * [`packet`], [`tap`]: raw frames, honest and hostile, and the sockets that send and see them
//! * [`traffic`]: peers that ping, echo, stream and count
//! * [`attack`], [`siege`]: hostile senders that never rest; load and attack at once, while agents come and go
//! * [`docker`]: Docker's engine
//! * [`programs`]: redis, PostgreSQL and nginx
//! * [`tshark`]: what Wireshark thinks of our packets
//! * [`dns`]: names as containers ask for them
//! * [`views`], [`drops`]: what the command line prints, and how the drop counters moved
//! * [`oracle`]: store, maps, links, devices and neighbours of all hosts, held against each other
//! * [`system`]: systemd, on a throw-away copy of this machine's files
//! * [`stores`], [`fault_proxy`]: stores that fail, and the network before them
//! * [`room`], [`doc_page`]: a host as a machine of its own, and pages of the documentation followed on it
//! * [`leftovers`]: what must not be there afterwards
//! * [`turns`], [`cpu`], [`stats`]: for measurements: who runs when, how busy the machine is, what came out
//!
//! The harness knows the product only from outside: the command line, its JSON, the packets. It shares
//! no code with the agent, so a field that changes its name turns tests red. A step that fails panics with
//! what was run and what came back, since a harness that cannot do its part is a failed test.

pub mod attack;
pub mod builds;
pub mod container;
pub mod cpu;
pub mod dns;
pub mod doc_page;
pub mod docker;
pub mod drops;
pub mod exec;
pub mod fault_proxy;
pub mod host;
pub mod leftovers;
pub mod netns;
pub mod oracle;
pub mod packet;
pub mod packet6;
pub mod programs;
pub mod room;
pub mod siege;
pub mod stats;
pub mod stores;
pub mod system;
pub mod tap;
pub mod topology;
pub mod traffic;
pub mod tshark;
pub mod turns;
pub mod underlay;
pub mod views;
pub mod wait;
pub mod workdir;
