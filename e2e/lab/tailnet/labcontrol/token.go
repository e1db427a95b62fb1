package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
)

// grantToken answers with a new token of the API.
func (l *lab) grantToken(w http.ResponseWriter) {
	t := "tskey-api-" + randHex(12)
	l.mu.Lock()
	l.tokens[t] = time.Now().Add(time.Hour)
	l.mu.Unlock()
	reply(w, map[string]any{"access_token": t, "token_type": "Bearer", "expires_in": 3600, "scope": "all"})
}

// checkToken verifies a JSON Web Token of the lab's issuer, which signs by HS256: signature, audience, end.
func checkToken(jwt, key, audience string) error {
	signed, signature, ok := cutLast(jwt, ".")
	if !ok {
		return errors.New("not a JSON Web Token")
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(signed))
	got, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		return errors.New("the signature is wrong")
	}
	header, payload, _ := strings.Cut(signed, ".")
	var h struct{ Alg string }
	var p struct {
		Aud string
		Exp int64
	}
	for part, v := range map[string]any{header: &h, payload: &p} {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case h.Alg != "HS256":
		return errors.New("the algorithm is not HS256")
	case p.Aud != audience:
		return errors.New("the audience is not " + audience)
	case time.Unix(p.Exp, 0).Before(time.Now()):
		return errors.New("it has expired")
	}
	return nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
