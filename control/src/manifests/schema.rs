//! The fields that Kubernetes has, kind by kind: what is read, and what is known and of no concern to a network.
//!
//! As of Kubernetes 1.36, with fields that were removed earlier. Fields below a field that is not listed as a
//! schema of its own (a container's `resources`, say) are not looked at.

use super::{reading::either, syntax};

/// Fields that an error lists. A pod's spec, which has twice as many, would bury what is wrong.
const MOST_LISTED: usize = 24;

/// The fields of a map.
#[derive(Debug)]
pub(super) struct Schema {
    /// For people: `unknown field x in <owner>`.
    pub(super) owner: &'static str,
    pub(super) fields: &'static [&'static str],
    /// Maps below this one, where a misplaced field may belong.
    below: &'static [(&'static str, &'static Schema)],
}

impl Schema {
    /// What to do about an unknown field.
    pub(super) fn advice(&self, field: &str) -> String {
        if let Some((place, _)) = self.below.iter().find(|(_, s)| s.fields.contains(&field)) {
            return format!("it belongs below `{place}`");
        }
        let closest = syntax::closest(field, self.fields.iter().copied());
        if let Some(meant) = closest.or_else(|| self.begun(field)) {
            return format!("did you mean `{meant}`?");
        }
        if self.fields.len() <= MOST_LISTED {
            return format!("use {}, or remove it", either(self.fields));
        }
        "check its spelling and indentation, or remove it".to_owned()
    }

    /// The only field that begins with this word.
    fn begun(&self, word: &str) -> Option<&'static str> {
        let mut longer = self.fields.iter().filter(|f| word.len() > 3 && f.starts_with(word));
        longer.next().filter(|_| longer.next().is_none()).copied()
    }
}

macro_rules! schemas {
    ($($name:ident $owner:literal [$($field:literal)*] $({$($place:literal $below:ident)*})?;)*) => {
        $(pub(super) static $name: Schema = Schema {
            owner: $owner,
            fields: &[$($field),*],
            below: &[$($(($place, &$below)),*)?],
        };)*
    };
}

schemas! {
    METADATA "metadata" ["annotations" "clusterName" "creationTimestamp" "deletionGracePeriodSeconds"
        "deletionTimestamp" "finalizers" "generateName" "generation" "labels" "managedFields" "name" "namespace"
        "ownerReferences" "resourceVersion" "selfLink" "uid"];
    OWNER_REFERENCE "an owner reference" ["apiVersion" "blockOwnerDeletion" "controller" "kind" "name" "uid"];
    LABEL_SELECTOR "a label selector" ["matchExpressions" "matchLabels"];
    REQUIREMENT "a selector's expression" ["key" "operator" "values"];

    NAMESPACE "a Namespace" ["apiVersion" "kind" "metadata" "spec" "status"] { "metadata" METADATA };
    NAMESPACE_SPEC "a Namespace's spec" ["finalizers"];
    NAMESPACE_STATUS "a Namespace's status" ["conditions" "phase"];

    NODE "a Node" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" NODE_SPEC "status" NODE_STATUS };
    NODE_SPEC "a Node's spec" ["configSource" "externalID" "podCIDR" "podCIDRs" "providerID" "taints"
        "unschedulable"];
    NODE_STATUS "a Node's status" ["addresses" "allocatable" "capacity" "conditions" "config" "daemonEndpoints"
        "declaredFeatures" "features" "images" "nodeInfo" "phase" "runtimeHandlers" "volumesAttached"
        "volumesInUse"];
    NODE_ADDRESS "a node's address" ["address" "type"];

    POD "a Pod" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" POD_SPEC "status" POD_STATUS };
    POD_TEMPLATE "a pod template" ["metadata" "spec"] { "metadata" METADATA "spec" POD_SPEC };
    POD_SPEC "a pod's spec" ["activeDeadlineSeconds" "affinity" "automountServiceAccountToken" "containers"
        "dnsConfig" "dnsPolicy" "enableServiceLinks" "ephemeralContainers" "hostAliases" "hostIPC" "hostNetwork"
        "hostPID" "hostUsers" "hostname" "hostnameOverride" "imagePullSecrets" "initContainers" "nodeName"
        "nodeSelector" "os" "overhead" "preemptionPolicy" "priority" "priorityClassName" "readinessGates"
        "resourceClaims" "resources" "restartPolicy" "runtimeClassName" "schedulerName" "schedulingGates"
        "schedulingGroup"
        "securityContext" "serviceAccount" "serviceAccountName" "setHostnameAsFQDN" "shareProcessNamespace"
        "subdomain" "terminationGracePeriodSeconds" "tolerations" "topologySpreadConstraints" "volumes"
        "workloadRef"];
    DNS_CONFIG "a pod's dnsConfig" ["nameservers" "options" "searches"];
    DNS_OPTION "an option of dnsConfig" ["name" "value"];
    CONTAINER "a container" ["args" "command" "env" "envFrom" "image" "imagePullPolicy" "lifecycle"
        "livenessProbe" "name" "ports" "readinessProbe" "resizePolicy" "resources" "restartPolicy"
        "restartPolicyRules" "securityContext" "startupProbe" "stdin" "stdinOnce" "terminationMessagePath"
        "terminationMessagePolicy" "tty" "volumeDevices" "volumeMounts" "workingDir"];
    CONTAINER_PORT "a container's port" ["containerPort" "hostIP" "hostPort" "name" "protocol"];
    POD_STATUS "a Pod's status" ["allocatedResources" "conditions" "containerStatuses"
        "ephemeralContainerStatuses" "extendedResourceClaimStatus" "hostIP" "hostIPs" "initContainerStatuses"
        "message" "nodeAllocatableResourceClaimStatuses" "nominatedNodeName" "observedGeneration" "phase" "podIP"
        "podIPs" "qosClass" "reason" "resize"
        "resourceClaimStatuses" "resources" "startTime"];
    POD_IP "an item of podIPs" ["ip"];
    CONDITION "a condition" ["lastHeartbeatTime" "lastProbeTime" "lastTransitionTime" "lastUpdateTime" "message"
        "observedGeneration" "reason" "status" "type"];

    DEPLOYMENT "a Deployment" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" DEPLOYMENT_SPEC };
    DEPLOYMENT_SPEC "a Deployment's spec" ["minReadySeconds" "paused" "progressDeadlineSeconds" "replicas"
        "revisionHistoryLimit" "selector" "strategy" "template"] { "template" POD_TEMPLATE };
    DEPLOYMENT_STATUS "a Deployment's status" ["availableReplicas" "collisionCount" "conditions"
        "observedGeneration" "readyReplicas" "replicas" "terminatingReplicas" "unavailableReplicas"
        "updatedReplicas"];
    REPLICA_SET "a ReplicaSet" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" REPLICA_SET_SPEC };
    REPLICA_SET_SPEC "a ReplicaSet's spec" ["minReadySeconds" "replicas" "selector" "template"]
        { "template" POD_TEMPLATE };
    REPLICA_SET_STATUS "a ReplicaSet's status" ["availableReplicas" "conditions" "fullyLabeledReplicas"
        "observedGeneration" "readyReplicas" "replicas" "terminatingReplicas"];
    REPLICATION_CONTROLLER "a ReplicationController" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" REPLICATION_CONTROLLER_SPEC };
    REPLICATION_CONTROLLER_SPEC "a ReplicationController's spec" ["minReadySeconds" "replicas" "selector" "template"]
        { "template" POD_TEMPLATE };
    STATEFUL_SET "a StatefulSet" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" STATEFUL_SET_SPEC };
    STATEFUL_SET_SPEC "a StatefulSet's spec" ["minReadySeconds" "ordinals"
        "persistentVolumeClaimRetentionPolicy" "podManagementPolicy" "replicas" "revisionHistoryLimit" "selector"
        "serviceName" "template" "updateStrategy" "volumeClaimTemplates"] { "template" POD_TEMPLATE };
    STATEFUL_SET_ORDINALS "ordinals" ["start"];
    STATEFUL_SET_STATUS "a StatefulSet's status" ["availableReplicas" "collisionCount" "conditions"
        "currentReplicas" "currentRevision" "observedGeneration" "readyReplicas" "replicas" "updateRevision"
        "updatedReplicas"];
    DAEMON_SET "a DaemonSet" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" DAEMON_SET_SPEC };
    DAEMON_SET_SPEC "a DaemonSet's spec" ["minReadySeconds" "revisionHistoryLimit" "selector" "template"
        "updateStrategy"] { "template" POD_TEMPLATE };
    DAEMON_SET_STATUS "a DaemonSet's status" ["collisionCount" "conditions" "currentNumberScheduled"
        "desiredNumberScheduled" "numberAvailable" "numberMisscheduled" "numberReady" "numberUnavailable"
        "observedGeneration" "updatedNumberScheduled"];
    JOB "a Job" ["apiVersion" "kind" "metadata" "spec" "status"] { "metadata" METADATA "spec" JOB_SPEC };
    JOB_SPEC "a Job's spec" ["activeDeadlineSeconds" "backoffLimit" "backoffLimitPerIndex" "completionMode"
        "completions" "managedBy" "manualSelector" "maxFailedIndexes" "parallelism" "podFailurePolicy"
        "podReplacementPolicy" "selector" "successPolicy" "suspend" "template" "ttlSecondsAfterFinished"]
        { "template" POD_TEMPLATE };
    JOB_STATUS "a Job's status" ["active" "completedIndexes" "completionTime" "conditions" "failed"
        "failedIndexes" "ready" "startTime" "succeeded" "terminating" "uncountedTerminatedPods"];
    CRON_JOB "a CronJob" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" CRON_JOB_SPEC };
    CRON_JOB_SPEC "a CronJob's spec" ["concurrencyPolicy" "failedJobsHistoryLimit" "jobTemplate" "schedule"
        "startingDeadlineSeconds" "successfulJobsHistoryLimit" "suspend" "timeZone"];
    CRON_JOB_STATUS "a CronJob's status" ["active" "lastScheduleTime" "lastSuccessfulTime"];
    JOB_TEMPLATE "a job template" ["metadata" "spec"] { "metadata" METADATA "spec" JOB_SPEC };

    SERVICE "a Service" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" SERVICE_SPEC };
    SERVICE_SPEC "a Service's spec" ["allocateLoadBalancerNodePorts" "clusterIP" "clusterIPs" "externalIPs"
        "externalName" "externalTrafficPolicy" "healthCheckNodePort" "internalTrafficPolicy" "ipFamilies"
        "ipFamilyPolicy" "loadBalancerClass" "loadBalancerIP" "loadBalancerSourceRanges" "ports"
        "publishNotReadyAddresses" "selector" "sessionAffinity" "sessionAffinityConfig" "topologyKeys"
        "trafficDistribution" "type"];
    SERVICE_PORT "a Service's port" ["appProtocol" "name" "nodePort" "port" "protocol" "targetPort"];
    SERVICE_STATUS "a Service's status" ["conditions" "loadBalancer"];
    LOAD_BALANCER_STATUS "a Service's status.loadBalancer" ["ingress"];
    LOAD_BALANCER_INGRESS "an item of status.loadBalancer.ingress" ["hostname" "ip" "ipMode" "ports"];
    ENDPOINT_SLICE "an EndpointSlice" ["addressType" "apiVersion" "endpoints" "kind" "metadata" "ports"]
        { "metadata" METADATA };
    ENDPOINT "an endpoint" ["addresses" "conditions" "deprecatedTopology" "hints" "hostname" "nodeName"
        "targetRef" "zone"] { "conditions" ENDPOINT_CONDITIONS };
    ENDPOINT_CONDITIONS "an endpoint's conditions" ["ready" "serving" "terminating"];
    ENDPOINT_PORT "an EndpointSlice's port" ["appProtocol" "name" "port" "protocol"];

    NETWORK_POLICY "a NetworkPolicy" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" NETWORK_POLICY_SPEC };
    NETWORK_POLICY_SPEC "a NetworkPolicy's spec" ["egress" "ingress" "podSelector" "policyTypes"];
    NETWORK_POLICY_STATUS "a NetworkPolicy's status" ["conditions"];
    INGRESS_RULE "an ingress rule" ["from" "ports"] { "ports" POLICY_PORT "from" PEER };
    EGRESS_RULE "an egress rule" ["ports" "to"] { "ports" POLICY_PORT "to" PEER };
    PEER "a peer" ["ipBlock" "namespaceSelector" "podSelector"] { "ipBlock" IP_BLOCK };
    IP_BLOCK "an ipBlock" ["cidr" "except"];
    POLICY_PORT "a policy's port" ["endPort" "port" "protocol"];

    CLUSTER_POLICY "a ClusterNetworkPolicy" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" CLUSTER_POLICY_SPEC };
    CLUSTER_POLICY_SPEC "a ClusterNetworkPolicy's spec" ["egress" "ingress" "priority" "subject" "tier"];
    CLUSTER_INGRESS_RULE "an ingress rule" ["action" "from" "name" "protocols"];
    CLUSTER_EGRESS_RULE "an egress rule" ["action" "name" "protocols" "to"];
    CLUSTER_PROTOCOL "an item of protocols" ["destinationNamedPort" "sctp" "tcp" "udp"];
    CLUSTER_TRANSPORT "a protocol" ["destinationPort"];
    CLUSTER_PORT "a destinationPort" ["number" "range"];
    PORT_RANGE "a range of ports" ["end" "start"];
    ADMIN_POLICY "an AdminNetworkPolicy" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" ADMIN_POLICY_SPEC };
    ADMIN_POLICY_SPEC "an AdminNetworkPolicy's spec" ["egress" "ingress" "priority" "subject"];
    BASELINE_POLICY "a BaselineAdminNetworkPolicy" ["apiVersion" "kind" "metadata" "spec" "status"]
        { "metadata" METADATA "spec" BASELINE_POLICY_SPEC };
    BASELINE_POLICY_SPEC "a BaselineAdminNetworkPolicy's spec" ["egress" "ingress" "subject"];
    ADMIN_INGRESS_RULE "an ingress rule" ["action" "from" "name" "ports"];
    ADMIN_EGRESS_RULE "an egress rule" ["action" "name" "ports" "to"];
    ADMIN_PORT "an item of ports" ["namedPort" "portNumber" "portRange"];
    PORT_NUMBER "a portNumber" ["port" "protocol"];
    PROTOCOL_PORT_RANGE "a portRange" ["end" "protocol" "start"];
    SUBJECT "a subject" ["namespaces" "pods"];
    NAMESPACED_PODS "pods" ["namespaceSelector" "podSelector"];
    ADMIN_INGRESS_PEER "a peer" ["namespaces" "pods"] { "pods" NAMESPACED_PODS };
    ADMIN_EGRESS_PEER "a peer" ["domainNames" "namespaces" "networks" "nodes" "pods"] { "pods" NAMESPACED_PODS };

    SECURITY_POLICY "a SecurityPolicy" ["apiVersion" "kind" "metadata" "spec"]
        { "metadata" METADATA "spec" SECURITY_POLICY_SPEC };
    SECURITY_POLICY_SPEC "a SecurityPolicy's spec" ["appliedTo" "category" "priority" "rules"];
    SECURITY_RULE "a rule" ["action" "appliedTo" "destinations" "destinationsExcluded" "direction" "disabled"
        "logLabel" "name" "services" "sources" "sourcesExcluded" "stateful"] { "services" SECURITY_SERVICE };
    APPLIED_TO "an item of appliedTo" ["namespaceSelector" "podSelector"];
    SECURITY_END "an end" ["addressSet" "cidr" "except" "namespaceSelector" "nodeSelector" "podSelector"];
    SECURITY_SERVICE "a service" ["icmpCode" "icmpType" "ports" "protocol"];
    ADDRESS_SET "an AddressSet" ["apiVersion" "kind" "metadata" "spec"]
        { "metadata" METADATA "spec" ADDRESS_SET_SPEC };
    ADDRESS_SET_SPEC "an AddressSet's spec" ["addresses"];

    SUPERVISOR "a Supervisor" ["apiVersion" "kind" "metadata" "spec"]
        { "metadata" METADATA "spec" SUPERVISOR_SPEC };
    SUPERVISOR_SPEC "a Supervisor's spec" ["cliTools" "egressCIDRs" "ingressCIDRs" "ingressPosture" "kubeAPI"
        "limits" "mssClamping" "mtu" "namespacePrefixLength" "nodeCIDRs" "nodes" "podCIDRs" "serviceCIDRs" "staticRoutes" "strictTCP"
        "tier1" "uplinks"];
    LIMITS "limits" ["namespace" "pod"]
        { "namespace" CONNECTION_LIMITS "pod" CONNECTION_LIMITS };
    CONNECTION_LIMITS "limits of connections" ["connections" "halfOpen" "newPerSecond"];
    UPLINK "an uplink" ["addresses" "driver" "interface" "mac" "mtu" "name"];
    STATIC_ROUTE "a static route" ["nextHops" "prefix"];
    NEXT_HOP "a next hop" ["address" "mac"];
    DEFAULT_SERVER "a default virtual server" ["address" "backends" "port"];
    POD_BACKEND "a backend" ["pod" "port"];
    LIST "a List" ["apiVersion" "items" "kind" "metadata"];
}

/// The kinds that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Supervisor,
    Namespace,
    Node,
    Pod,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    SecurityPolicy,
    AddressSet,
}

impl Kind {
    /// Every kind, its name, and the version that is read.
    pub(super) const ALL: [(Self, &'static str, &'static str); 19] = [
        (Self::Supervisor, "Supervisor", "supernet.dev/v1alpha1"),
        (Self::Namespace, "Namespace", "v1"),
        (Self::Node, "Node", "v1"),
        (Self::Pod, "Pod", "v1"),
        (Self::Deployment, "Deployment", "apps/v1"),
        (Self::ReplicaSet, "ReplicaSet", "apps/v1"),
        (Self::ReplicationController, "ReplicationController", "v1"),
        (Self::StatefulSet, "StatefulSet", "apps/v1"),
        (Self::DaemonSet, "DaemonSet", "apps/v1"),
        (Self::Job, "Job", "batch/v1"),
        (Self::CronJob, "CronJob", "batch/v1"),
        (Self::Service, "Service", "v1"),
        (Self::EndpointSlice, "EndpointSlice", "discovery.k8s.io/v1"),
        (Self::NetworkPolicy, "NetworkPolicy", "networking.k8s.io/v1"),
        (Self::ClusterNetworkPolicy, "ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
        (Self::AdminNetworkPolicy, "AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
        (Self::BaselineAdminNetworkPolicy, "BaselineAdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
        (Self::SecurityPolicy, "SecurityPolicy", "supernet.dev/v1alpha1"),
        (Self::AddressSet, "AddressSet", "supernet.dev/v1alpha1"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(k, ..)| *k == self).map_or("", |(_, name, _)| name)
    }
}

/// API groups that hold, or once held, kinds that are read. A kind of the same name in any other group is
/// another kind (Knative's Service, Calico's NetworkPolicy).
pub(super) const OWN_GROUPS: [&str; 8] = [
    "",
    "apps",
    "batch",
    "discovery.k8s.io",
    "extensions",
    "networking.k8s.io",
    "policy.networking.k8s.io",
    "supernet.dev",
];

/// Whether objects of this kind, which is not read, would change who reaches whom.
pub(super) fn shapes_traffic(kind: &str, group: &str) -> bool {
    kind.ends_with("NetworkPolicy")
        || kind.ends_with("NetworkPolicySet")
        || kind == "Ingress"
        || group == "gateway.networking.k8s.io" && kind != "GatewayClass" && kind != "ReferenceGrant"
}
