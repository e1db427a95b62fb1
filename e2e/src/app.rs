//! The sample application and how it gets onto the tailnet: the manifests that a user would write.

/// A namespace that enforces Pod Security `restricted`.
pub fn namespace(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels: {{ pod-security.kubernetes.io/enforce: restricted }}
"#
    )
}

/// The lab's backend as a Deployment and a Service on port 80. It calls itself by its name.
pub fn deployment(namespace: &str, name: &str, image: &str) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      securityContext: {{ runAsNonRoot: true, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
      - name: app
        image: {image}
        imagePullPolicy: Never
        env: [{{ name: APP_NAME, value: {name} }}]
        ports: [{{ containerPort: 8080 }}]
        readinessProbe: {{ httpGet: {{ path: /, port: 8080 }}, periodSeconds: 1 }}
        resources: {{ requests: {{ cpu: 10m, memory: 16Mi }}, limits: {{ memory: 128Mi }} }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{ drop: [ALL] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ name: http, port: 80, targetPort: 8080 }}]
"#
    )
}

/// The shortest Ingress: a device of the Ingress's own name for one Service.
pub fn ingress(namespace: &str, name: &str, service: &str) -> String {
    format!(
        r#"apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  ingressClassName: postern
  defaultBackend: {{ service: {{ name: {service}, port: {{ number: 80 }} }} }}
"#
    )
}

/// The same as a TailnetIngress.
pub fn tailnet_ingress(namespace: &str, name: &str, service: &str) -> String {
    format!(
        r#"apiVersion: postern.dev/v1alpha1
kind: TailnetIngress
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  backend: {{ service: {{ name: {service}, port: 80 }} }}
"#
    )
}
