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
}

/// Kinds that decide, by API group.
const DECIDES: [(&str, &[&str]); 9] = [
    ("policy.networking.k8s.io", &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"]),
    ("cilium.io", &["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumLocalRedirectPolicy"]),
    ("crd.projectcalico.org", CALICO),
    ("projectcalico.org", CALICO),
    ("k8s.cni.cncf.io", &["MultiNetworkPolicy"]),
    ("crd.antrea.io", &["NetworkPolicy", "ClusterNetworkPolicy"]),
    ("k8s.ovn.org", &["EgressFirewall"]),
    ("network.openshift.io", &["EgressNetworkPolicy"]),
    ("policy.karmada.io", &["FederatedNetworkPolicy"]),
];

const CALICO: &[&str] =
    &["NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "Tier"];

/// Kinds that make pods whose template npc does not know, by API group.
const MAKES_PODS: [(&str, &[&str]); 22] = [
    ("apps.openshift.io", &["DeploymentConfig"]),
    ("argoproj.io", &["Rollout", "Workflow", "CronWorkflow"]),
    ("kafka.strimzi.io", &["Kafka", "KafkaConnect", "KafkaBridge", "KafkaMirrorMaker2", "KafkaNodePool"]),
    ("monitoring.coreos.com", &["Prometheus", "PrometheusAgent", "Alertmanager", "ThanosRuler"]),
    ("serving.knative.dev", &["Service", "Configuration"]),
    ("postgresql.cnpg.io", &["Cluster", "Pooler"]),
    ("acid.zalan.do", &["postgresql"]),
    ("postgres-operator.crunchydata.com", &["PostgresCluster"]),
    ("elasticsearch.k8s.elastic.co", &["Elasticsearch"]),
    ("kibana.k8s.elastic.co", &["Kibana"]),
    ("beat.k8s.elastic.co", &["Beat"]),
    ("rabbitmq.com", &["RabbitmqCluster"]),
    ("mongodbcommunity.mongodb.com", &["MongoDBCommunity"]),
    ("redis.redis.opstreelabs.in", &["Redis", "RedisCluster"]),
    ("minio.min.io", &["Tenant"]),
    ("ray.io", &["RayCluster", "RayJob", "RayService"]),
    ("sparkoperator.k8s.io", &["SparkApplication", "ScheduledSparkApplication"]),
    ("tekton.dev", &["TaskRun", "PipelineRun"]),
    ("kubeflow.org", &["TFJob", "PyTorchJob", "MPIJob", "Notebook"]),
    ("jaegertracing.io", &["Jaeger"]),
    ("opentelemetry.io", &["OpenTelemetryCollector"]),
    ("apps.kruise.io", &["CloneSet", "StatefulSet", "DaemonSet", "AdvancedCronJob"]),
];

/// What an object of this API group and kind means for the answers; none where it says
/// nothing about connectivity.
#[must_use]
pub fn consequence(group: &str, kind: &str) -> Option<Consequence> {
    let has = |table: &[(&str, &[&str])]| table.iter().any(|(of, kinds)| *of == group && kinds.contains(&kind));
    if has(&DECIDES) {
        Some(Consequence::Decides)
    } else if has(&MAKES_PODS) {
        Some(Consequence::MakesPods)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_decides_and_not_the_kind_alone() {
        for (group, kind, expected) in [
            ("policy.networking.k8s.io", "AdminNetworkPolicy", Some(Consequence::Decides)),
            ("projectcalico.org", "NetworkPolicy", Some(Consequence::Decides)),
            ("cilium.io", "CiliumClusterwideNetworkPolicy", Some(Consequence::Decides)),
            ("k8s.cni.cncf.io", "MultiNetworkPolicy", Some(Consequence::Decides)),
            ("argoproj.io", "Rollout", Some(Consequence::MakesPods)),
            ("serving.knative.dev", "Service", Some(Consequence::MakesPods)),
            ("argoproj.io", "Application", None),
            ("networking.k8s.io", "Ingress", None),
            ("", "ConfigMap", None),
        ] {
            assert_eq!(consequence(group, kind), expected, "{group} {kind}");
        }
    }
}
