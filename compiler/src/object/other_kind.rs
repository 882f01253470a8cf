//! Kinds that npc does not judge and that bear on connectivity all the same. All other
//! kinds say nothing about it.

/// What an object of a kind that is not read means for the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Consequence {
    /// It allows or denies traffic too, beside NetworkPolicies.
    Decides,
    /// Its controller makes pods that are not in the input.
    MakesPods,
    /// Its controller makes objects of any kind, pods and policies among them, that are not in the
    /// input.
    MakesObjects,
}

/// Kinds that decide, by API group.
const DECIDES: [(&str, &[&str]); 15] = [
    ("policy.networking.k8s.io", &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"]),
    ("cilium.io", &["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumLocalRedirectPolicy"]),
    ("crd.projectcalico.org", CALICO),
    ("projectcalico.org", CALICO),
    ("k8s.cni.cncf.io", &["MultiNetworkPolicy"]),
    ("crd.antrea.io", ANTREA),
    ("crd.antrea.tanzu.vmware.com", ANTREA),
    ("security.antrea.tanzu.vmware.com", ANTREA),
    ("security.istio.io", &["AuthorizationPolicy"]),
    ("k8s.ovn.org", &["EgressFirewall"]),
    ("network.openshift.io", &["EgressNetworkPolicy"]),
    ("policy.karmada.io", &["FederatedNetworkPolicy"]),
    ("networking.gke.io", &["FQDNNetworkPolicy"]),
    ("networking.k8s.aws", &["ApplicationNetworkPolicy", "ClusterNetworkPolicy"]),
    ("vpcresources.k8s.aws", &["SecurityGroupPolicy"]),
];

/// Staged policies decide nothing, and a tier only in which order others do.
const CALICO: &[&str] = &["NetworkPolicy", "GlobalNetworkPolicy"];

const ANTREA: &[&str] = &["NetworkPolicy", "ClusterNetworkPolicy"];

/// Kinds that make pods whose template npc does not know, by API group.
const MAKES_PODS: [(&str, &[&str]); 62] = [
    ("apps.openshift.io", &["DeploymentConfig"]),
    ("argoproj.io", &["Rollout", "Workflow", "CronWorkflow", "ArgoCD", "EventSource", "Sensor"]),
    (
        "kafka.strimzi.io",
        &["Kafka", "KafkaConnect", "KafkaBridge", "KafkaMirrorMaker", "KafkaMirrorMaker2", "KafkaNodePool"],
    ),
    ("monitoring.coreos.com", &["Prometheus", "PrometheusAgent", "Alertmanager", "ThanosRuler"]),
    (
        "operator.victoriametrics.com",
        &[
            "VMAgent",
            "VMAlert",
            "VMAlertmanager",
            "VMAnomaly",
            "VMAuth",
            "VMCluster",
            "VMSingle",
            "VLAgent",
            "VLCluster",
            "VLSingle",
            "VLogs",
            "VTCluster",
            "VTSingle",
        ],
    ),
    ("serving.knative.dev", &["Service", "Configuration"]),
    ("serving.kserve.io", &["InferenceService"]),
    ("postgresql.cnpg.io", &["Cluster", "Pooler"]),
    ("acid.zalan.do", &["postgresql"]),
    ("postgres-operator.crunchydata.com", &["PostgresCluster", "PGAdmin"]),
    ("pgv2.percona.com", &["PerconaPGCluster"]),
    ("pxc.percona.com", &["PerconaXtraDBCluster"]),
    ("psmdb.percona.com", &["PerconaServerMongoDB"]),
    ("elasticsearch.k8s.elastic.co", &["Elasticsearch"]),
    ("kibana.k8s.elastic.co", &["Kibana"]),
    ("beat.k8s.elastic.co", &["Beat"]),
    ("agent.k8s.elastic.co", &["Agent"]),
    ("apm.k8s.elastic.co", &["ApmServer"]),
    ("logstash.k8s.elastic.co", &["Logstash"]),
    ("opensearch.opster.io", &["OpenSearchCluster"]),
    ("opensearch.org", &["OpenSearchCluster"]),
    ("rabbitmq.com", &["RabbitmqCluster"]),
    ("mongodbcommunity.mongodb.com", &["MongoDBCommunity"]),
    ("mongodb.com", &["MongoDB", "MongoDBOpsManager"]),
    ("redis.redis.opstreelabs.in", &["Redis", "RedisCluster", "RedisReplication", "RedisSentinel"]),
    ("databases.spotahome.com", &["RedisFailover"]),
    ("dragonflydb.io", &["Dragonfly"]),
    ("mysql.oracle.com", &["InnoDBCluster"]),
    ("k8s.mariadb.com", &["MariaDB", "MaxScale"]),
    ("cassandra.datastax.com", &["CassandraDatacenter"]),
    ("k8ssandra.io", &["K8ssandraCluster"]),
    ("scylla.scylladb.com", &["ScyllaCluster"]),
    ("clickhouse.altinity.com", &["ClickHouseInstallation"]),
    ("crdb.cockroachlabs.com", &["CrdbCluster"]),
    ("pingcap.com", &["TidbCluster"]),
    ("planetscale.com", &["VitessCluster"]),
    ("minio.min.io", &["Tenant"]),
    ("vault.banzaicloud.com", &["Vault"]),
    ("k8s.keycloak.org", &["Keycloak"]),
    ("grafana.integreatly.org", &["Grafana"]),
    ("loki.grafana.com", &["LokiStack"]),
    ("tempo.grafana.com", &["TempoStack", "TempoMonolithic"]),
    ("ceph.rook.io", &["CephCluster", "CephObjectStore", "CephFilesystem"]),
    ("ray.io", &["RayCluster", "RayJob", "RayService"]),
    ("sparkoperator.k8s.io", &["SparkApplication", "ScheduledSparkApplication"]),
    ("flink.apache.org", &["FlinkDeployment"]),
    ("solr.apache.org", &["SolrCloud"]),
    ("zookeeper.pravega.io", &["ZookeeperCluster"]),
    ("camel.apache.org", &["Integration"]),
    ("tekton.dev", &["TaskRun", "PipelineRun"]),
    ("kubeflow.org", &["TFJob", "PyTorchJob", "MPIJob", "Notebook"]),
    ("keda.sh", &["ScaledJob"]),
    ("jobset.x-k8s.io", &["JobSet"]),
    ("leaderworkerset.x-k8s.io", &["LeaderWorkerSet"]),
    ("batch.volcano.sh", &["Job"]),
    ("kubevirt.io", &["VirtualMachine", "VirtualMachineInstance", "VirtualMachineInstanceReplicaSet"]),
    ("pool.kubevirt.io", &["VirtualMachinePool"]),
    ("jaegertracing.io", &["Jaeger"]),
    ("opentelemetry.io", &["OpenTelemetryCollector"]),
    ("jenkins.io", &["Jenkins"]),
    ("actions.github.com", &["AutoscalingRunnerSet"]),
    (
        "apps.kruise.io",
        &["CloneSet", "StatefulSet", "DaemonSet", "AdvancedCronJob", "BroadcastJob", "UnitedDeployment"],
    ),
];

/// Kinds that make objects of any kind from charts, repositories or lists, by API group.
const MAKES_OBJECTS: [(&str, &[&str]); 10] = [
    ("helm.toolkit.fluxcd.io", &["HelmRelease"]),
    ("kustomize.toolkit.fluxcd.io", &["Kustomization"]),
    ("helm.cattle.io", &["HelmChart"]),
    ("argoproj.io", &["Application", "ApplicationSet"]),
    ("core.oam.dev", &["Application"]),
    ("fleet.cattle.io", &["GitRepo", "Bundle"]),
    ("work.open-cluster-management.io", &["ManifestWork"]),
    ("kubernetes.crossplane.io", &["Object"]),
    ("helm.crossplane.io", &["Release"]),
    ("operators.coreos.com", &["Subscription", "ClusterServiceVersion"]),
];

/// Those of these kinds whose objects are in no namespace, by API group.
const IN_NO_NAMESPACE: [(&str, &[&str]); 10] = [
    ("policy.networking.k8s.io", &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"]),
    ("cilium.io", &["CiliumClusterwideNetworkPolicy"]),
    ("crd.projectcalico.org", &["GlobalNetworkPolicy"]),
    ("projectcalico.org", &["GlobalNetworkPolicy"]),
    ("crd.antrea.io", &["ClusterNetworkPolicy"]),
    ("crd.antrea.tanzu.vmware.com", &["ClusterNetworkPolicy"]),
    ("security.antrea.tanzu.vmware.com", &["ClusterNetworkPolicy"]),
    ("networking.k8s.aws", &["ClusterNetworkPolicy"]),
    ("kubernetes.crossplane.io", &["Object"]),
    ("helm.crossplane.io", &["Release"]),
];

/// Whether an object that bears on connectivity is in no namespace.
#[must_use]
pub fn is_cluster_scoped(group: &str, kind: &str) -> bool {
    IN_NO_NAMESPACE.iter().any(|(of, kinds)| *of == group && kinds.contains(&kind))
}

/// The kinds that decide beside NetworkPolicies, by API group.
pub fn deciding_kinds() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    DECIDES.iter().copied()
}

/// What an object of this API group and kind means for the answers; none where it says
/// nothing about connectivity.
#[must_use]
pub fn consequence(group: &str, kind: &str) -> Option<Consequence> {
    let has = |table: &[(&str, &[&str])]| table.iter().any(|(of, kinds)| *of == group && kinds.contains(&kind));
    if has(&DECIDES) {
        Some(Consequence::Decides)
    } else if has(&MAKES_PODS) {
        Some(Consequence::MakesPods)
    } else if has(&MAKES_OBJECTS) {
        Some(Consequence::MakesObjects)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_no_namespace_bears_on_connectivity() {
        for (group, kinds) in IN_NO_NAMESPACE {
            assert!(kinds.iter().all(|kind| consequence(group, kind).is_some()), "{group}");
        }
        assert!(!is_cluster_scoped("crd.projectcalico.org", "NetworkPolicy"));
    }

    #[test]
    fn the_group_decides_and_not_the_kind_alone() {
        for (group, kind, expected) in [
            ("policy.networking.k8s.io", "AdminNetworkPolicy", Some(Consequence::Decides)),
            ("projectcalico.org", "NetworkPolicy", Some(Consequence::Decides)),
            ("cilium.io", "CiliumClusterwideNetworkPolicy", Some(Consequence::Decides)),
            ("k8s.cni.cncf.io", "MultiNetworkPolicy", Some(Consequence::Decides)),
            ("argoproj.io", "Rollout", Some(Consequence::MakesPods)),
            ("serving.knative.dev", "Service", Some(Consequence::MakesPods)),
            ("kubevirt.io", "VirtualMachine", Some(Consequence::MakesPods)),
            ("argoproj.io", "Application", Some(Consequence::MakesObjects)),
            ("app.k8s.io", "Application", None),
            ("networking.k8s.io", "Ingress", None),
            ("", "ConfigMap", None),
        ] {
            assert_eq!(consequence(group, kind), expected, "{group} {kind}");
        }
    }
}
