//! What operators make, by the names that they give it: `x-kafka-0` of a Kafka called x.

use npc_agent::source::manifests::ObjectRef;

use super::named_target::is_name_of;
use crate::command::input::Input;

/// The names of workloads, pods and Services that operators make, by the kind of the object: `{}` is the object's name, `#`
/// a number, `*` any text, and `~` at the end nothing or a dash and any text. These are the documented names, or those of
/// the operator's source. Where an operator puts a name of the user's behind the object's (a pool, a set, a task),
/// any text stands for it.
const NAMES: [(&str, &[&str]); 61] = [
    // Strimzi
    ("Kafka", &["{}-kafka~", "{}-zookeeper~", "{}-entity-operator~", "{}-cruise-control~", "{}-*-#", "strimzi-{}-*"]),
    ("KafkaNodePool", &["*-{}", "*-{}-#"]),
    ("KafkaConnect", &["{}-connect~"]),
    ("KafkaBridge", &["{}-bridge~"]),
    ("KafkaMirrorMaker", &["{}-mirror-maker~"]),
    ("KafkaMirrorMaker2", &["{}-mirrormaker2~"]),
    // Prometheus
    ("Prometheus", &["prometheus-{}", "prometheus-{}-#", "prometheus-{}-shard-#~", "prometheus-operated"]),
    ("PrometheusAgent", &["prom-agent-{}", "prom-agent-{}-#", "prom-agent-{}-shard-#~", "prom-agent-{}-*"]),
    ("Alertmanager", &["alertmanager-{}", "alertmanager-{}-#", "alertmanager-operated"]),
    ("ThanosRuler", &["thanos-ruler-{}", "thanos-ruler-{}-#", "thanos-ruler-operated"]),
    // VictoriaMetrics
    ("VMAgent", &["vmagent-{}~"]),
    ("VMAlert", &["vmalert-{}~"]),
    ("VMAlertmanager", &["vmalertmanager-{}~"]),
    ("VMAnomaly", &["vmanomaly-{}~"]),
    ("VMAuth", &["vmauth-{}~"]),
    ("VMCluster", &["vmselect-{}~", "vminsert-{}~", "vmstorage-{}~", "vmauth-{}~", "vmclusterlb-{}~"]),
    ("VMSingle", &["vmsingle-{}~"]),
    ("VLAgent", &["vlagent-{}~"]),
    ("VLCluster", &["vlselect-{}~", "vlinsert-{}~", "vlstorage-{}~", "vlclusterlb-{}~"]),
    ("VLSingle", &["vlsingle-{}~"]),
    ("VLogs", &["vlogs-{}~"]),
    ("VTCluster", &["vtselect-{}~", "vtinsert-{}~", "vtstorage-{}~", "vtclusterlb-{}~"]),
    ("VTSingle", &["vtsingle-{}~"]),
    ("InferenceService", &["{}-predictor~", "{}-transformer~", "{}-explainer~"]),
    // Elastic
    ("Elasticsearch", &["{}-es-*"]),
    ("Kibana", &["{}-kb~"]),
    ("Beat", &["{}-beat-*"]),
    ("Agent", &["{}-agent~"]),
    ("ApmServer", &["{}-apm-*"]),
    ("Logstash", &["{}-ls~"]),
    // Databases and queues
    ("RabbitmqCluster", &["{}-server", "{}-server-#", "{}-nodes"]),
    ("PerconaXtraDBCluster", &["{}-pxc~", "{}-haproxy~", "{}-proxysql~"]),
    ("PGAdmin", &["pgadmin-*"]),
    ("RedisFailover", &["rfr-{}~", "rfs-{}~", "rfrm-{}", "rfrs-{}"]),
    ("RedisCluster", &["{}-leader~", "{}-follower~", "{}-master"]),
    ("RedisSentinel", &["{}-sentinel~"]),
    ("CassandraDatacenter", &["*-{}-*-sts", "*-{}-*-sts-#", "*-{}-service", "*-{}-all-pods-service"]),
    ("ClickHouseInstallation", &["chi-{}-*", "clickhouse-{}"]),
    ("SolrCloud", &["{}-solrcloud~"]),
    // Storage
    ("CephCluster", &["rook-ceph-*"]),
    ("CephObjectStore", &["rook-ceph-rgw-{}~"]),
    ("CephFilesystem", &["rook-ceph-mds-{}-*"]),
    // Observation
    ("Grafana", &["{}-deployment~", "{}-service", "{}-alerting"]),
    ("TempoStack", &["tempo-{}-*"]),
    ("TempoMonolithic", &["tempo-{}~"]),
    ("OpenTelemetryCollector", &["{}-collector~", "{}-targetallocator~"]),
    // Batch
    ("TFJob", &["{}-*-#"]),
    ("PyTorchJob", &["{}-master-#", "{}-worker-#"]),
    ("MPIJob", &["{}-launcher~", "{}-worker", "{}-worker-#"]),
    ("Notebook", &["{}-#"]),
    ("SparkApplication", &["{}-driver~", "{}-*-exec-#", "{}-*-driver-svc", "{}-ui-svc"]),
    ("JobSet", &["{}-*-#", "{}-*-#-#~"]),
    ("LeaderWorkerSet", &["{}-#", "{}-#-#"]),
    ("TaskRun", &["{}-pod~"]),
    ("PipelineRun", &["{}-*-pod~", "{}-pod~"]),
    // Virtual machines
    ("VirtualMachine", &["virt-launcher-{}-*"]),
    ("VirtualMachineInstance", &["virt-launcher-{}-*"]),
    ("VirtualMachineInstanceReplicaSet", &["virt-launcher-{}*"]),
    ("VirtualMachinePool", &["virt-launcher-{}-*"]),
    ("Jenkins", &["jenkins-{}", "jenkins-operator-http-{}", "jenkins-operator-slave-{}"]),
    ("Job", &["{}-*-#"]),
];

/// The names of what is made for a kind that is not listed.
const OTHERS: &[&str] = &["{}~"];

/// The objects in whose name an operator may make what has this name, in words.
pub(super) fn operated(input: &Input, namespace: &str, kind: Option<&str>, name: &str) -> Vec<String> {
    let is_made = kind.is_none_or(|kind| matches!(kind, "Workload" | "Pod" | "Service" | "StatefulSet" | "Deployment"));
    let may_make = |of: &&ObjectRef| {
        let is_itself = of.name == name && kind.is_none_or(|kind| is_name_of(kind, &of.kind));
        of.namespace == namespace && (is_itself || (is_made && makes(&of.kind, &of.name, name)))
    };
    let makers = input.loaded.pod_making.iter().filter(may_make);
    makers
        .map(|of| format!("the pods that {} {}/{} makes are not in the input", of.kind, of.namespace, of.name))
        .collect()
}

/// Whether an object of the input whose controller makes pods is of a kind with this name.
pub(super) fn has_maker_of_kind(input: &Input, kind: &str) -> bool {
    input.loaded.pod_making.iter().any(|of| is_name_of(kind, &of.kind))
}

/// Whether an object of this kind and name may be what something with a name was made for.
fn makes(kind: &str, object: &str, name: &str) -> bool {
    let patterns = NAMES.iter().find(|(of, _)| *of == kind).map_or(OTHERS, |(_, patterns)| patterns);
    patterns.iter().any(|pattern| fits(pattern.replace("{}", object).as_bytes(), name.as_bytes()))
}

/// Whether a pattern is a name. No name of an object has any of its signs.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'~'] => name.is_empty() || (name.len() > 1 && name[0] == b'-'),
        [b'#', rest @ ..] => {
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
            (1..=digits).any(|count| fits(rest, &name[count..]))
        }
        [b'*', rest @ ..] => (1..=name.len()).any(|count| fits(rest, &name[count..])),
        [byte, rest @ ..] => name.first() == Some(byte) && fits(rest, &name[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_operators_give() {
        for (kind, made, others) in [
            (
                "Kafka",
                &["x-kafka-0", "x-kafka-bootstrap", "x-zookeeper-2", "x-broker-0"][..],
                &["x-anything", "a-x-b"][..],
            ),
            ("KafkaNodePool", &["events-x-0"], &["x-0", "events-x-a"]),
            ("Prometheus", &["prometheus-x-0", "prometheus-x-shard-1-0"], &["prometheus-x-a", "x-0", "prefix-x-0"]),
            ("Alertmanager", &["alertmanager-x-0"], &["alertmanager-x-y-0", "alertmanager-y-0"]),
            ("Elasticsearch", &["x-es-data-0", "x-es-http"], &["x-es", "x-data-0"]),
            ("PyTorchJob", &["x-master-0", "x-worker-12"], &["x-worker", "x-worker-a", "x-foo-0"]),
            ("Job", &["x-ps-0"], &["x", "x-ps"]),
            ("VirtualMachine", &["virt-launcher-x-abcde"], &["x", "launcher-x-a"]),
            ("Cluster", &["x", "x-1", "x-rw"], &["ax-1", "xa", "a-x-1", "x-"]),
        ] {
            for name in made {
                assert!(makes(kind, "x", name), "{kind} {name}");
            }
            for name in others {
                assert!(!makes(kind, "x", name), "{kind} {name}");
            }
        }
    }

    #[test]
    fn each_listed_kind_makes_pods_and_stands_once() {
        for (place, (kind, patterns)) in NAMES.iter().enumerate() {
            assert!(!patterns.is_empty() && !NAMES[..place].iter().any(|(of, _)| of == kind), "{kind}");
        }
    }
}
