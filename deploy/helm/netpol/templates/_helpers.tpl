{{- /* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "netpol.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* The item of a flag, if its value is not null. 0 and false are values. Numbers come as floats. */}}
{{- define "netpol.flag" -}}
{{- $value := .value }}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
{{- if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%v" .name $value | quote }}
{{- end }}
{{- end }}

{{- /* The address that the agent listens on, with its port. */}}
{{- define "netpol.listen" -}}
{{- if not .Values.listen.enabled -}}
none
{{- else if contains ":" .Values.listen.address -}}
[{{ .Values.listen.address }}]:{{ int64 .Values.listen.port }}
{{- else -}}
{{ .Values.listen.address }}:{{ int64 .Values.listen.port }}
{{- end }}
{{- end }}

{{- /* The address that the kubelet asks: of all addresses, the loopback. */}}
{{- define "netpol.probed" -}}
{{- if eq .Values.listen.address "0.0.0.0" -}}
127.0.0.1
{{- else if eq .Values.listen.address "::" -}}
::1
{{- else -}}
{{ .Values.listen.address }}
{{- end }}
{{- end }}

{{- define "netpol.apiServer" -}}
{{- with .Values.apiServer.host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ int64 $.Values.apiServer.port | quote }}
{{- end }}
{{- end }}

{{- /* The agent's flags, but for those of every rendering. */}}
{{- define "netpol.flags" -}}
{{- $values := .Values -}}
{{- $cniResults := ternary nil .Values.agent.cniResults (eq .Values.agent.cniResults "/var/lib/cni/results") -}}
{{- include "netpol.flag" (dict "name" "log-format" "value" $values.log.format) }}
{{- include "netpol.flag" (dict "name" "log" "value" $values.log.filter) }}
{{- include "netpol.flag" (dict "name" "startup-mode" "value" $values.startupMode) }}
{{- include "netpol.flag" (dict "name" "attach" "value" $values.agent.attach) }}
{{- include "netpol.flag" (dict "name" "pin-path" "value" $values.agent.pinPath) }}
{{- include "netpol.flag" (dict "name" "cni-results" "value" $cniResults) }}
{{- include "netpol.flag" (dict "name" "socket" "value" $values.agent.socket) }}
{{- include "netpol.flag" (dict "name" "flow-capacity" "value" $values.agent.flowCapacity) }}
{{- include "netpol.flag" (dict "name" "events-per-second" "value" $values.agent.eventsPerSecond) }}
{{- include "netpol.flag" (dict "name" "resync" "value" $values.agent.resync) }}
{{- include "netpol.flag" (dict "name" "program-log" "value" $values.agent.programLog) }}
{{- range $values.agent.podCIDRs }}
{{- include "netpol.flag" (dict "name" "pod-cidr" "value" .) }}
{{- end }}
{{- range $state, $seconds := $values.agent.flowLifetimes }}
{{- include "netpol.flag" (dict "name" "flow-lifetime" "value" (printf "%s=%d" $state (int64 $seconds))) }}
{{- end }}
{{- end }}

{{- /* What one value asks of another, and the schema cannot say well. */}}
{{- define "netpol.check" -}}
{{- $loopback := or (hasPrefix "127." .Values.listen.address) (eq .Values.listen.address "::1") }}
{{- if and .Values.podMonitor.enabled (or $loopback (not .Values.listen.enabled)) }}
{{- fail "podMonitor.enabled: Prometheus cannot reach the agent: set listen.enabled, and listen.address to 0.0.0.0, :: or an address of the node" }}
{{- end }}
{{- end }}

{{- /* A container that runs `netpol cleanup`: the root, and words. Removing takes less than enforcing. */}}
{{- define "netpol.cleanupContainer" -}}
{{- $root := first . -}}
image: {{ include "netpol.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args:
  {{- range rest . }}
  - {{ . }}
  {{- end }}
  {{- with include "netpol.flag" (dict "name" "pin-path" "value" $root.Values.agent.pinPath) | trim }}
  {{ . }}
  {{- end }}
securityContext:
  runAsUser: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add:
      - NET_ADMIN
volumeMounts:
  - name: bpffs
    mountPath: /sys/fs/bpf
{{- end }}
