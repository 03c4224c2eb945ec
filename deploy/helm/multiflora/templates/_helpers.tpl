{{- define "multiflora.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end }}
{{- $name | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "multiflora.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "multiflora.labels" -}}
{{ include "multiflora.selector" . }}
{{ include "multiflora.release" . }}
{{- end }}

{{- define "multiflora.engineLabels" -}}
{{ include "multiflora.engineSelector" . }}
{{ include "multiflora.release" . }}
{{- end }}

{{- define "multiflora.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Of engines in pods of their own, which clients do not reach. */}}
{{- define "multiflora.engineSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-engine
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* With a name that the operator leaves as it is for what it makes. */}}
{{- define "multiflora.rayName" -}}
{{ include "multiflora.name" . | trunc 46 | trimSuffix "-" }}-ray
{{- end }}

{{/* "true" where engines have pods of their own, and those of the Deployment are gateways. */}}
{{- define "multiflora.isGateway" -}}
{{- if and .Values.engines.enabled .Values.ray.enabled }}
{{- fail "Engines are started by Kubernetes or by Ray: set engines.enabled or ray.enabled, not both." }}
{{- end }}
{{- if or .Values.engines.enabled .Values.ray.enabled -}}
true
{{- end }}
{{- end }}

{{/* "true" where each pod has a data folder of its own; fails where it could not know the others' keys. */}}
{{- define "multiflora.ownFolders" -}}
{{- if and .Values.artifactStore.url .Values.database.existingSecret }}
{{- if not .Values.secret.existingSecret }}
{{- fail "Pods with data folders of their own need the secret that they share: set secret.existingSecret." }}
{{- end -}}
true
{{- end }}
{{- end }}

{{/* "true" where more than one server may run at a time; fails where they could not share what they must. */}}
{{- define "multiflora.several" -}}
{{- if or (gt (int .Values.replicaCount) 1) (and .Values.autoscaling.enabled (not (include "multiflora.isGateway" .))) }}
{{- if not .Values.database.existingSecret }}
{{- fail "Several pods need PostgreSQL: set database.existingSecret, or replicaCount=1 without autoscaling." }}
{{- end }}
{{- if not (or (include "multiflora.ownFolders" .) .Values.persistence.existingClaim (has "ReadWriteMany" .Values.persistence.accessModes)) }}
{{- fail "Several pods share artifacts: set artifactStore.url, persistence.accessModes=[ReadWriteMany], or persistence.existingClaim to such a claim." }}
{{- end -}}
true
{{- end }}
{{- end }}

{{/* Fails where engines in pods of their own could not be found, or not be trusted. */}}
{{- define "multiflora.requireEngines" -}}
{{- if not .Values.database.existingSecret }}
{{- fail "Engines in pods of their own are found in PostgreSQL: set database.existingSecret." }}
{{- end }}
{{- if not .Values.secret.existingSecret }}
{{- fail "Engines in pods of their own know gateways by a secret: set secret.existingSecret." }}
{{- end }}
{{- if and .Values.ray.enabled .Values.autoscaling.enabled }}
{{- fail "Ray itself runs as many engines as the load wants: give min_replicas and max_replicas in ray.groups, and no autoscaling." }}
{{- end }}
{{- end }}

{{- define "multiflora.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "multiflora.databaseVariable" -}}
{{- with .Values.database }}
{{- if .existingSecret }}
- name: MULTIFLORA_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the lines between gateways and engines, and stored keys, are protected with. */}}
{{- define "multiflora.secretVariable" -}}
{{- if .Values.secret.existingSecret }}
- name: MULTIFLORA_SECRET_FILE
  value: /etc/multiflora/secret
{{- end }}
{{- end }}

{{- define "multiflora.secretMount" -}}
{{- if .Values.secret.existingSecret }}
- name: secret
  mountPath: /etc/multiflora
  readOnly: true
{{- end }}
{{- end }}

{{- define "multiflora.secretVolume" -}}
{{- with .Values.secret }}
{{- if .existingSecret }}
- name: secret
  secret:
    secretName: {{ .existingSecret }}
    # For the pod's group.
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: secret
{{- end }}
{{- end }}
{{- end }}

{{- define "multiflora.storeVariables" -}}
{{- with .Values.artifactStore }}
{{- if .url }}
- name: MULTIFLORA_ARTIFACT_STORE
  value: {{ .url | quote }}
{{- if .endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ .endpoint | quote }}
{{- end }}
{{- if .region }}
- name: AWS_DEFAULT_REGION
  value: {{ .region | quote }}
{{- end }}
{{- if .existingSecret }}
{{- range $variable, $key := dict "AWS_ACCESS_KEY_ID" .accessKey "AWS_SECRET_ACCESS_KEY" .secretKey }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.artifactStore.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of every pod that asks nothing of Kubernetes. */}}
{{- define "multiflora.podSpec" -}}
automountServiceAccountToken: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{ include "multiflora.anyPodSpec" . }}
{{- end }}

{{- define "multiflora.anyPodSpec" -}}
# Or a service of the name "multiflora" would set MULTIFLORA_PORT to what is no port.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .Values.drainSeconds 30 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # A volume with thousands of files is not walked at each start.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "multiflora.upgrade" -}}
{{- if .Values.database.existingSecret }}
initContainers:
  # Pods that upgrade at the same time wait for each other.
  - name: upgrade
    image: {{ include "multiflora.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [db, upgrade]
    env: {{- include "multiflora.databaseVariable" . | trim | nindent 12 }}
    securityContext: {{- include "multiflora.containerSecurity" . | nindent 12 }}
    volumeMounts: {{- include "multiflora.mounts" . | nindent 12 }}
{{- end }}
{{- end }}

{{/* Of every pod with engines. */}}
{{- define "multiflora.enginePlacement" -}}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{ include "multiflora.placement" .Values }}
{{- end }}

{{/* Given the values that have it. */}}
{{- define "multiflora.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "multiflora.engineResources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpus }}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict "nvidia.com/gpu" (toString .Values.gpus))) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "multiflora.sharedMemoryVolume" -}}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.sharedMemory }}
{{- end }}

{{- define "multiflora.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Of a volume for one pod, given the values that have its size. */}}
{{- define "multiflora.ownClaim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end }}

{{- define "multiflora.mounts" -}}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
{{- end }}

{{/* Settings of all groups of Ray's. Engines take a device by what their pods are given, not by what has come so far. */}}
{{- define "multiflora.raySettings" -}}
{{- $own := dict "device" (ternary "cuda" "cpu" (gt (int .Values.gpus) 0)) "drain_timeout" .Values.drainSeconds }}
{{- if .Values.model }}{{ $own = set $own "model" .Values.model }}{{ end }}
{{- toYaml (merge (dict) .Values.ray.settings (set $own "ports" .Values.ray.ports)) }}
{{- end }}

{{/* What `multiflora ray deploy` reads. */}}
{{- define "multiflora.deployFile" -}}
{{ include "multiflora.raySettings" . }}
groups:
{{ toYaml .Values.ray.groups }}
{{- end }}

{{/* What gateways must have as the engines of the first group have it; the models of other groups beside it. */}}
{{- define "multiflora.gatewayFile" -}}
{{- $common := fromYaml (include "multiflora.raySettings" .) }}
{{- $ofEngines := list "device" "replicas" "min_replicas" "max_replicas" "up_after" "down_after" "cpus" "gpus" "resources" "ports" "surge" }}
{{- $further := list }}
{{- range rest .Values.ray.groups }}
{{- $further = append $further (dict "name" .group "source" (.model | default $common.model)) }}
{{- end }}
{{- $settings := merge (dict) (first .Values.ray.groups) $common }}
{{- range $ofEngines }}{{ $settings = omit $settings . }}{{ end }}
{{- toYaml (set $settings "models" $further) }}
{{- end }}

{{/* Of the pods of Ray's nodes, whose user the image says. */}}
{{- define "multiflora.rayContainer" -}}
image: {{ include "multiflora.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  # An operator that knows no tokens starts nothing, rather than a cluster for everybody.
  - name: RAY_AUTH_MODE
    value: token
  - name: RAY_USAGE_STATS_ENABLED
    value: "0"
  - name: RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S
    value: "2"
  {{- include "multiflora.databaseVariable" . | trim | nindent 2 }}
  {{- include "multiflora.secretVariable" . | trim | nindent 2 }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext: {{- include "multiflora.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "multiflora.rayMounts" . | nindent 2 }}
  {{- include "multiflora.secretMount" . | trim | nindent 2 }}
{{- end }}

{{/* What a node and programs beside it share. */}}
{{- define "multiflora.rayMounts" -}}
{{ include "multiflora.mounts" . }}
- name: ray-logs
  mountPath: /tmp/ray
- name: shm
  mountPath: /dev/shm
{{- end }}

{{- define "multiflora.rayVolumes" -}}
- name: tmp
  emptyDir: {}
# By this name the operator gives it to the autoscaler, too.
- name: ray-logs
  emptyDir: {}
{{ include "multiflora.sharedMemoryVolume" . }}
{{ include "multiflora.secretVolume" . | trim }}
{{- end }}
