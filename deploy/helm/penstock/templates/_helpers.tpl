{{- define "penstock.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "penstock.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "penstock.poolSettings" -}}
{{- $pools := dict -}}
{{- range $name, $pool := .Values.pools -}}
{{- $_ := set $pools $name $pool.settings -}}
{{- end -}}
{{- $pools | toJson -}}
{{- end -}}

{{/* What every container needs; a dict of root and component. */}}
{{- define "penstock.env" -}}
{{- $root := .root -}}
{{- $env := dict "HOME" "/tmp" "PENSTOCK_NAMESPACE" $root.Values.namespace
      "PENSTOCK_MODELS" (join "," $root.Values.models)
      "PENSTOCK_POOLS" (include "penstock.poolSettings" $root)
      "PENSTOCK_SECRETS_DIR" "/run/secrets/penstock"
      "PENSTOCK_HOME" "/home/penstock/.penstock"
      "PENSTOCK_METRICS__HOST" "0.0.0.0"
      "PENSTOCK_METRICS__PORT" ($root.Values.metrics.port | toString) -}}
{{- $env = mergeOverwrite $env (.more | default dict) $root.Values.settings -}}
{{- range $name := keys $env | sortAlpha }}
- name: {{ $name }}
  value: {{ get $env $name | quote }}
{{- end }}
{{- end -}}

{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser }}
runAsGroup: {{ .Values.podSecurity.runAsUser }}
fsGroup: {{ .Values.podSecurity.fsGroup }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "penstock.mounts" -}}
- {name: secrets, mountPath: /run/secrets/penstock, readOnly: true}
- {name: home, mountPath: /home/penstock/.penstock}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "penstock.volumes" -}}
- name: secrets
  secret: {secretName: {{ .Values.secret }}, defaultMode: 0440}
- name: home
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- end -}}

{{- define "penstock.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{/* Over hosts and zones, where that is possible; a dict of root and labels. */}}
{{- define "penstock.spread" -}}
{{- $labels := .labels -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- toYaml $labels | nindent 6 }}
{{- end }}
{{- end -}}

{{/* The pod of a worker: a dict of root, pool and its values. The autoscaler adds `--slot`, or a Deployment has it. */}}
{{- define "penstock.workerPod" -}}
{{- $root := .root -}}
{{- $labels := dict "app.kubernetes.io/name" "penstock" "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/component" "worker" "penstock/pool" .pool -}}
metadata:
  labels:
    {{- toYaml $labels | nindent 4 }}
spec:
  serviceAccountName: {{ include "penstock.name" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .values.graceSeconds }}
  securityContext:
    {{- include "penstock.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- include "penstock.spread" (dict "labels" (omit $labels "app.kubernetes.io/component")) | nindent 4 }}
  containers:
    - name: worker
      image: {{ include "penstock.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [worker, --pool, {{ .pool | quote }}]
      env:
        {{- $more := mergeOverwrite (dict "PENSTOCK_WORKER__DRAIN_S" (sub .values.graceSeconds 30 | toString)) (.values.env | default dict) }}
        {{- include "penstock.env" (dict "root" $root "more" $more) | nindent 8 }}
      ports:
        - {name: metrics, containerPort: {{ $root.Values.metrics.port }}}
      {{- include "penstock.probes" $root | nindent 6 }}
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        {{- include "penstock.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        {{- include "penstock.mounts" $root | nindent 8 }}
        - {name: shm, mountPath: /dev/shm}
        {{- with .values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "penstock.volumes" $root | nindent 4 }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .values.sharedMemory | default "1Gi" }}}
    {{- with .values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* A Deployment of one of our services: a dict of root, component, args, values, more env, mounts, volumes. */}}
{{- define "penstock.service" -}}
{{- $root := .root -}}
{{- $labels := dict "app.kubernetes.io/name" "penstock" "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/component" .component -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "penstock.name" $root }}-{{ .component }}
  labels:
    {{- include "penstock.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  replicas: {{ .values.replicas | default 1 }}
  revisionHistoryLimit: 3
  selector:
    matchLabels:
      {{- toYaml $labels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- toYaml $labels | nindent 8 }}
      {{- with .checksum }}
      annotations:
        checksum/pools: {{ . | sha256sum }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "penstock.name" $root }}{{ if .token }}-{{ .component }}{{ end }}
      automountServiceAccountToken: {{ .token | default false }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      securityContext:
        {{- include "penstock.podSecurity" $root | nindent 8 }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- include "penstock.spread" (dict "labels" $labels) | nindent 8 }}
      containers:
        - name: {{ .component }}
          image: {{ include "penstock.image" $root | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args:
            {{- toYaml .args | nindent 12 }}
          env:
            {{- include "penstock.env" (dict "root" $root "more" .more) | nindent 12 }}
          ports:
            {{- range $name, $port := .ports }}
            - {name: {{ $name }}, containerPort: {{ $port }}}
            {{- end }}
          {{- if .probes }}
          {{- toYaml .probes | nindent 10 }}
          {{- else }}
          {{- include "penstock.probes" $root | nindent 10 }}
          {{- end }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- include "penstock.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            {{- include "penstock.mounts" $root | nindent 12 }}
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "penstock.volumes" $root | nindent 8 }}
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}
