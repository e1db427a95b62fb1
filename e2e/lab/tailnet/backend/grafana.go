package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// Who visits, logged in as Grafana does it by "generic OAuth", with Grafana's own settings; without them, any app:
// https://grafana.com/docs/grafana/latest/setup-grafana/configure-access/configure-authentication/generic-oauth/
func grafana(w http.ResponseWriter, r *http.Request) {
	const login = "/login/generic_oauth"
	switch {
	case setting("ENABLED") != "true":
		echo(w, r)
	case r.URL.Path == "/api/health":
		fmt.Fprintln(w, `{"database":"ok"}`)
	case r.URL.Path != login:
		http.Redirect(w, r, login, http.StatusFound)
	case r.FormValue("code") == "":
		authorize(w, r)
	default:
		claims, err := redeemed(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "Welcome %v <%v>", claims[setting("LOGIN_ATTRIBUTE_PATH")], claims["email"])
	}
}

func setting(name string) string { return os.Getenv("GF_AUTH_GENERIC_OAUTH_" + name) }

func callback() string {
	return strings.TrimSuffix(os.Getenv("GF_SERVER_ROOT_URL"), "/") + "/login/generic_oauth"
}

// Off to the provider; state and verifier wait in cookies.
func authorize(w http.ResponseWriter, r *http.Request) {
	state, verifier := rand.Text(), rand.Text()+rand.Text()
	for name, value := range map[string]string{"oauth_state": state, "oauth_code_verifier": verifier} {
		http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: true})
	}
	challenge := sha256.Sum256([]byte(verifier))
	http.Redirect(w, r, setting("AUTH_URL")+"?"+url.Values{
		"client_id": {setting("CLIENT_ID")}, "redirect_uri": {callback()}, "response_type": {"code"},
		"scope": {setting("SCOPES")}, "state": {state}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])},
	}.Encode(), http.StatusFound)
}

// What the provider says about the visitor, asked by the server itself.
func redeemed(r *http.Request) (map[string]any, error) {
	state, err := r.Cookie("oauth_state")
	if err != nil || state.Value != r.FormValue("state") {
		return nil, fmt.Errorf("the state is another: %v", err)
	}
	verifier, err := r.Cookie("oauth_code_verifier")
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {r.FormValue("code")}, "redirect_uri": {callback()},
		"code_verifier": {verifier.Value},
	}
	ask, err := http.NewRequest("POST", setting("TOKEN_URL"), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	ask.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	ask.SetBasicAuth(url.QueryEscape(setting("CLIENT_ID")), url.QueryEscape(setting("CLIENT_SECRET")))
	var tokens struct {
		Access string `json:"access_token"`
	}
	if err := answered(ask, &tokens); err != nil {
		return nil, err
	}
	ask, err = http.NewRequest("GET", setting("API_URL"), nil)
	if err != nil {
		return nil, err
	}
	ask.Header.Set("Authorization", "Bearer "+tokens.Access)
	claims := map[string]any{}
	return claims, answered(ask, &claims)
}

func answered(ask *http.Request, into any) error {
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", ask.URL, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}
