package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// A program of another whose place we take when we are started by its name.
type standIn struct {
	addr, pattern string
	handler       http.HandlerFunc
}

var standIns = map[string]standIn{
	"ollama":       {":11434", "POST /api/chat", ollama},
	"llama-server": {":8080", "POST /v1/chat/completions", llama},
	"open-webui":   {":8080", "/", echo},
	"grafana":      {":3000", "/", grafana},
	"whoami":       {":8080", "/", echo},
	"livebook":     {"127.0.0.1:8080", "/", livebook},
}

// Lines of JSON: https://docs.ollama.com/api
func ollama(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	words(w, r, func(word string, done bool) string {
		return fmt.Sprintf(`{"message":{"role":"assistant","content":%q},"done":%t}`+"\n", word, done)
	})
}

// Server-sent events, as OpenAI's.
func llama(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	words(w, r, func(word string, done bool) string {
		if done {
			return "data: [DONE]\n\n"
		}
		return fmt.Sprintf(`data: {"choices":[{"delta":{"content":%q}}]}`+"\n\n", word)
	})
}

// Says a few words as a model does, one at a time, until nobody listens.
func words(w http.ResponseWriter, r *http.Request, form func(word string, done bool) string) {
	said := []string{"Posterns", " are", " small", " gates", ""}
	for i, word := range said {
		if _, err := w.Write([]byte(form(word, i == len(said)-1))); err != nil {
			return
		}
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(300 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

// Who visits, asked as Livebook asks: the daemon's socket, for the peer or the one address of X-Forwarded-For.
func livebook(w http.ResponseWriter, r *http.Request) {
	_, socket, _ := strings.Cut(os.Getenv("LIVEBOOK_IDENTITY_PROVIDER"), ":")
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	visitor, _, _ := net.SplitHostPort(r.RemoteAddr)
	if forwarded := r.Header["X-Forwarded-For"]; len(forwarded) == 1 && net.ParseIP(forwarded[0]) != nil {
		visitor = forwarded[0]
	}
	answer, err := client.Get("http://local-tailscaled.sock/localapi/v0/whois?addr=" +
		url.QueryEscape(net.JoinHostPort(visitor, "1")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	var who struct {
		UserProfile struct{ LoginName, DisplayName string }
	}
	err = json.NewDecoder(answer.Body).Decode(&who)
	if answer.StatusCode != http.StatusOK || err != nil || who.UserProfile.LoginName == "tagged-devices" {
		http.Error(w, fmt.Sprintf("nobody's device: %s, %v", answer.Status, err), http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, "Hello %s <%s>", who.UserProfile.DisplayName, who.UserProfile.LoginName)
}
