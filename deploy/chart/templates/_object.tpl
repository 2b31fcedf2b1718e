{{- /*
An object of kustomize's, in the namespace and with the labels that the values name: (list $ TEXT).
What is made of it is YAML again.
*/ -}}
{{- define "sniff.object" -}}
{{- $values := (index . 0).Values -}}
{{- $object := fromYaml (index . 1) -}}
{{- $metadata := $object.metadata -}}
{{- $_ := set $metadata "labels" (merge dict $metadata.labels $values.labels) -}}
{{- if $metadata.namespace -}}
{{- $_ := set $metadata "namespace" $values.namespace.name -}}
{{- end -}}
{{- range $object.subjects -}}
{{- $_ := set . "namespace" $values.namespace.name -}}
{{- end -}}
{{- toYaml $object -}}
{{- end -}}

{{- /* A file of kustomize's with one object: (list $ PATH). */ -}}
{{- define "sniff.file" -}}
{{- $root := index . 0 -}}
{{- include "sniff.object" (list $root ($root.Files.Get (printf "files/%s" (index . 1)))) -}}
{{- end -}}

{{- /* The image's reference. */ -}}
{{- define "sniff.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}
