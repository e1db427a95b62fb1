{{- define "postern.labels" -}}
app.kubernetes.io/name: postern-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: postern
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "postern.selector" -}}
app.kubernetes.io/name: postern-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "postern.image" -}}
{{ .image.repository }}:{{ .image.tag | default .appVersion }}
{{- end }}

{{- /* What Pod Security `restricted` asks of a pod, and of a container. */}}
{{- define "postern.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "postern.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "postern.environment" -}}
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: POSTERN_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: POSTERN_PROXY_IMAGE
  value: {{ include "postern.image" (dict "image" .Values.proxy.image "appVersion" .Chart.AppVersion) | quote }}
- name: POSTERN_PULL_POLICY
  value: {{ .Values.proxy.pullPolicy }}
- name: POSTERN_PROXY_LOG
  value: {{ .Values.proxy.logLevel | quote }}
- name: RUST_LOG
  value: {{ .Values.operator.logLevel | quote }}
{{- if .Values.tailnet.create }}
- name: POSTERN_DEFAULT_TAILNET
  value: {{ include "postern.tailnet" . | fromYaml | toJson | quote }}
{{- end }}
{{- end }}

{{- /* Spec of the Tailnet `default`. The operator makes it: Helm can't install an object with its definition. */}}
{{- define "postern.tailnet" -}}
{{- $c := .Values.tailnet.credentials }}
{{- $secret := "postern-default-credentials" }}
loginServer: {{ .Values.tailnet.loginServer }}
{{- with .Values.tailnet.apiURL }}
apiURL: {{ . }}
{{- end }}
{{- with .Values.tailnet.acmeDirectory }}
acmeDirectory: {{ . }}
{{- end }}
{{- with .Values.tailnet.caBundle }}
caBundle: {{ . | quote }}
{{- end }}
credentials:
  {{- if or $c.oauthClient.secretName $c.oauthClient.clientID }}
  oauthClient: { secretRef: { name: {{ $c.oauthClient.secretName | default $secret }} } }
  {{- else }}
  authKey: { secretRef: { name: {{ $c.authKey.secretName | default $secret }} } }
  {{- end }}
  {{- if or $c.headscaleAPIKey.secretName $c.headscaleAPIKey.value }}
  headscaleAPIKey: { secretRef: { name: {{ $c.headscaleAPIKey.secretName | default $secret }} } }
  {{- end }}
tags:
  {{- toYaml .Values.tailnet.tags | nindent 2 }}
{{- end }}
