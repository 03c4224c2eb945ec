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
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* "true" where more than one pod may run at a time; fails where they could not share what they must. */}}
{{- define "multiflora.several" -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled }}
{{- if not .Values.database.existingSecret }}
{{- fail "Several pods need PostgreSQL: set database.existingSecret, or replicaCount=1 without autoscaling." }}
{{- end }}
{{- if not (or .Values.persistence.existingClaim (has "ReadWriteMany" .Values.persistence.accessModes)) }}
{{- fail "Several pods share one volume: set persistence.accessModes=[ReadWriteMany], or persistence.existingClaim to such a claim." }}
{{- end -}}
true
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

{{- define "multiflora.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "multiflora.mounts" -}}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
{{- end }}
