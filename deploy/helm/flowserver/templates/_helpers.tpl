{{/* The release's name where it says flowserver, else both. 53 characters leave room for suffixes. */}}
{{- define "flowserver.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{- define "flowserver.selector" -}}
app.kubernetes.io/name: flowserver
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flowserver.redis.selector" -}}
app.kubernetes.io/name: flowserver-redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flowserver.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "flowserver.labels" -}}
{{ include "flowserver.selector" . }}
{{ include "flowserver.release" . }}
{{- end }}

{{- define "flowserver.redis.labels" -}}
{{ include "flowserver.redis.selector" . }}
{{ include "flowserver.release" . }}
{{- end }}
