// Publishes to a topic of Tidegate: publish TOPIC DATA [TYPE] [KEY]
//
// An empty TYPE is message. KEY makes a repetition safe: it stores the event once; without one there is a new one for each run.
// publish --lines publishes the events of its standard input, one JSON object a line, and says of each what became of it.
// TIDEGATE_URL says where, PUBLISH_TOKEN what to show there.
// Exit code 0: stored. 1: refused, and would be again. 75: try again later, with the same key.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

// What the gateway answers: the id, or what is wrong.
type answer struct {
	ID, Code, Detail string
	Duplicate        bool
	Error            json.RawMessage
}

// send posts a body once.
func send(client *http.Client, query, contentType, key string, body io.Reader) (*http.Response, error) {
	url := cmp.Or(os.Getenv("TIDEGATE_URL"), "http://127.0.0.1:8080") + "/publish" + query
	request, err := http.NewRequest("POST", url, body)
	if err != nil {
		log.Fatal("TIDEGATE_URL: ", err)
	}
	request.Header.Set("Content-Type", contentType)
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	if token := os.Getenv("PUBLISH_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return client.Do(request)
}

// Too fast, not now, or nobody knows: with the same key it may be sent again.
func temporary(status int) bool { return status == 429 || status == 503 || status == 504 }

// publish publishes one event, and does not give up at once.
func publish(topic, data, kind, key string) int {
	client := &http.Client{Timeout: 30 * time.Second}
	event := map[string]string{"topic": topic, "data": data, "event": cmp.Or(kind, "message")}
	body, _ := json.Marshal(event)
	key = cmp.Or(key, rand.Text()) // one for all attempts: this is what makes them safe
	for _, pause := range []time.Duration{100, 500, 2000, 0} {
		pause *= time.Millisecond
		var said answer
		response, err := send(client, "", "application/json", key, bytes.NewReader(body))
		if err == nil {
			err = json.NewDecoder(response.Body).Decode(&said)
			response.Body.Close()
		}
		if err != nil {
			log.Print("whether it was stored is unknown: ", err)
		} else if response.StatusCode == 200 {
			word := "stored"
			if said.Duplicate {
				word = "duplicate"
			}
			fmt.Println(said.ID, word)
			return 0
		} else {
			log.Print(said.Code, ": ", said.Detail)
			if !temporary(response.StatusCode) {
				return 1
			}
			if after, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && pause > 0 {
				pause = max(pause, time.Duration(after)*time.Second)
			}
		}
		time.Sleep(pause)
	}
	return 75
}

// publishLines publishes a stream of events, and writes each answer while the stream goes on.
// Give each event a `key`: then what broke off may be sent again.
func publishLines(lines io.Reader) (code int) {
	response, err := send(&http.Client{}, "?ack=lines", "application/x-ndjson", "", lines)
	if err != nil {
		log.Print("how much was stored is unknown: ", err)
		return 75
	}
	defer response.Body.Close()
	if temporary(response.StatusCode) {
		code = 75
	} else if response.StatusCode != 200 {
		code = 1
	}
	answers := bufio.NewScanner(response.Body)
	for answers.Scan() {
		var said answer
		if json.Unmarshal(answers.Bytes(), &said) != nil || said.Error != nil {
			code = max(code, 1)
		}
		fmt.Println(answers.Text())
	}
	if err := answers.Err(); err != nil {
		log.Print("how much was stored is unknown: ", err)
		return 75
	}
	return code
}

func main() {
	log.SetFlags(0)
	args := os.Args[1:]
	if len(args) == 1 && args[0] == "--lines" {
		os.Exit(publishLines(os.Stdin))
	}
	if len(args) < 2 {
		log.Fatal("usage: publish TOPIC DATA [TYPE] [KEY], or publish --lines")
	}
	args = append(args, "", "")
	os.Exit(publish(args[0], args[1], args[2], args[3]))
}
