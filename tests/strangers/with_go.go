// A client with Go's net/http.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const connections = 4

var client = http.Client{
	Timeout:   60 * time.Second,
	Transport: &http.Transport{MaxIdleConnsPerHost: connections},
}

// post returns the status of a reply that was read to its end.
func post(url, token, accept, address string, body []byte) (string, error) {
	request, err := http.NewRequest("POST", url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Accept", accept)
	request.Header.Set("Content-Type", "text/plain")
	request.Header.Set("X-Forwarded-For", address) // nginx limits the uploads of each address
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", err
	}
	return strconv.Itoa(response.StatusCode), nil
}

// cause returns the innermost error's text.
func cause(err error) string {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}

func main() {
	url, tokens, accept := os.Args[1], strings.Split(os.Args[2], ","), os.Args[5]
	body, err := os.ReadFile(os.Args[3])
	if err != nil {
		panic(err)
	}
	count, err := strconv.Atoi(os.Args[4])
	if err != nil {
		panic(err)
	}
	statuses, lost := map[string]int{}, map[string]int{}
	var lock sync.Mutex
	var all sync.WaitGroup
	for connection := 0; connection < connections; connection++ {
		all.Add(1)
		go func(token string) {
			defer all.Done()
			for number := 0; number < count/connections; number++ {
				address := fmt.Sprintf("10.0.0.%d", number%250+1)
				status, err := post(url, token, accept, address, body)
				lock.Lock()
				if err != nil {
					lost[cause(err)]++
				} else {
					statuses[status]++
				}
				lock.Unlock()
			}
		}(tokens[connection%len(tokens)])
	}
	all.Wait()
	line, err := json.Marshal(map[string]any{"statuses": statuses, "lost": lost})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
