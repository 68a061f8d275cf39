{{/*
Every template begins with "settle": it lays the values that the umbrella chart of today nests over the top-level ones, and decides
once how things are named. What it decides is in .Values.settled.
*/}}
{{- define "akv-csi.settle" -}}
{{- if not (hasKey .Values "settled") }}
{{- if not .Values.image }}
{{- fail "the values of the release's former chart took the place of this chart's own defaults: repeat with --reset-then-reuse-values instead of --reuse-values" }}
{{- end }}
{{- $nested := index .Values "secrets-store-csi-driver" | default dict }}
{{- /* Beside a nested block, the names up here are those of the provider's DaemonSet, which is gone. */}}
{{- $named := ternary $nested .Values (gt (len $nested) 0) }}
{{- $name := $named.nameOverride | default "secrets-store-csi-driver" }}
{{- $settled := dict "name" $name
    "fullname" ($named.fullnameOverride | default "secrets-store-csi-driver" | trunc 63 | trimSuffix "-")
    "selector" (dict "app" $name) }}
{{- $_ := set $settled "wanted" $settled.fullname }}
{{- /* A selector cannot be changed, and under another name a second driver would come up beside the first. */}}
{{- range (lookup "apps/v1" "DaemonSet" .Release.Namespace "").items }}
{{- $driver := false }}
{{- range .spec.template.spec.containers }}
{{- $driver = or $driver (eq .name "secrets-store") }}
{{- end }}
{{- $here := eq (get (.metadata.annotations | default dict) "meta.helm.sh/release-name") $.Release.Name }}
{{- $windows := eq (get (.spec.template.spec.nodeSelector | default dict) "kubernetes.io/os") "windows" }}
{{- if and $driver $here (not $windows) }}
{{- $_ := set $settled "fullname" .metadata.name }}
{{- $_ := set $settled "selector" .spec.selector.matchLabels }}
{{- $_ := set $settled "takesOver" (gt (len .spec.template.spec.containers) 1) }}
{{- end }}
{{- end }}
{{- /* Up here that is the provider's port. The driver chart has none at this place. */}}
{{- include "akv-csi.overlay" (list .Values (omit $nested "metricsAddr")) }}
{{- $_ := set .Values "settled" $settled }}
{{- end }}
{{- end }}

{{/*
Whether tokens come as secrets of the call. A driver of 1.5 does not look for them there, so while one may still run on some node,
they come the way they did.
*/}}
{{- define "akv-csi.tokensInSecrets" -}}
{{- $wish := toString .Values.serviceAccountTokenInSecrets }}
{{- if ne $wish "auto" }}
{{- include "akv-csi.true" $wish }}
{{- else if semverCompare ">=1.35.0-0" .Capabilities.KubeVersion.Version }}
{{- if .Values.settled.takesOver }}
{{- $live := lookup "storage.k8s.io/v1" "CSIDriver" "" "secrets-store.csi.k8s.io" }}
{{- include "akv-csi.true" (dig "spec" "serviceAccountTokenInSecrets" false $live) }}
{{- else }}true{{ end }}
{{- end }}
{{- end }}

{{/* Lays one map over another: what is said there wins; lists that both programs of today need are joined. */}}
{{- define "akv-csi.overlay" -}}
{{- $base := index . 0 }}
{{- range $key, $value := index . 1 }}
{{- $below := get $base $key }}
{{- if and (kindIs "map" $value) (kindIs "map" $below) }}
{{- include "akv-csi.overlay" (list $below $value) }}
{{- else if and (kindIs "slice" $value) (kindIs "slice" $below) (has $key (list "env" "imagePullSecrets" "volumes" "volumeMounts")) }}
{{- $_ := set $base $key (concat $below $value | uniq) }}
{{- else if not (kindIs "invalid" $value) }}
{{- $_ := set $base $key $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* "true" or nothing; values files also have the strings. */}}
{{- define "akv-csi.true" -}}
{{- if eq (toString .) "true" }}true{{ end }}
{{- end }}

{{- define "akv-csi.labels" -}}
{{- $own := dict
    "app.kubernetes.io/name" .Values.settled.name
    "app.kubernetes.io/instance" .Release.Name
    "app.kubernetes.io/version" .Chart.AppVersion
    "app.kubernetes.io/managed-by" .Release.Service
    "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_")
}}
{{- toYaml (merge (dict) .Values.settled.selector $own (.Values.commonLabels | default dict)) }}
{{- end }}

{{- define "akv-csi.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* A value by its dotted path; nothing where it is not given, empty or false. */}}
{{- define "akv-csi.at" -}}
{{- $here := index . 0 }}
{{- range splitList "." (index . 1) }}
{{- $here = ternary (get (ternary $here dict (kindIs "map" $here)) .) nil (kindIs "map" $here) }}
{{- end }}
{{- if and $here (ne (toString $here) "false") }}given{{ end }}
{{- end }}

{{/* The pod of a hook: no rights on the node, and the driver's own image. */}}
{{- define "akv-csi.hookPod" -}}
{{- $root := index . 0 }}
{{- with $root.Values }}
metadata:
  labels:
    {{- toYaml (merge (dict) (dict "app" (index $ 1) "app.kubernetes.io/instance" $root.Release.Name) (.linux.crds.podLabels | default dict) (.commonLabels | default dict)) | nindent 4 }}
spec:
  serviceAccountName: {{ index $ 1 }}
  restartPolicy: Never
  {{- with .imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  nodeSelector:
    kubernetes.io/os: linux
  {{- with .linux.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65534
    runAsGroup: 65534
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: {{ index $ 2 }}
      image: {{ include "akv-csi.image" $root | quote }}
      imagePullPolicy: {{ .image.pullPolicy }}
      args: [cluster, {{ index $ 2 }}]
      {{- with .linux.crds.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
{{- end }}
{{- end }}

{{/* The service account of a hook with its one role. They are there for as long as the hook runs. */}}
{{- define "akv-csi.hookAccount" -}}
{{- $root := index . 0 }}
{{- $annotations := dict "helm.sh/hook" (index . 2) "helm.sh/hook-weight" "1" "helm.sh/hook-delete-policy" "hook-succeeded,before-hook-creation" }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "akv-csi.labels" $root | nindent 4 }}
  annotations:
    {{- toYaml $annotations | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ index . 1 }}
  labels:
    {{- include "akv-csi.labels" $root | nindent 4 }}
  annotations:
    {{- toYaml $annotations | nindent 4 }}
rules:
  {{- toYaml (index . 3) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ index . 1 }}
  labels:
    {{- include "akv-csi.labels" $root | nindent 4 }}
  annotations:
    {{- toYaml $annotations | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ index . 1 }}
subjects:
  - kind: ServiceAccount
    name: {{ index . 1 }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
